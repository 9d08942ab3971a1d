"""The whole pipeline on embedded data, and the data itself: spoken scenes."""

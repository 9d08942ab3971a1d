"""What `prepare` made, as a page to look at."""

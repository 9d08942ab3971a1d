"""Sound and pictures out of video files."""

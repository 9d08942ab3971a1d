"""Alignment in time: subtitles that are late, early or at another rate are moved to where they are heard."""

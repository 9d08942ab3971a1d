"""Objectives: what a stage's outcome is judged by, as named scalar losses."""

"""Filters: what keeps bad samples out of shards, a family in each file, and what they look at."""

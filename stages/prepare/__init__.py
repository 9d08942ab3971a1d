"""Prepare: from media to shards."""

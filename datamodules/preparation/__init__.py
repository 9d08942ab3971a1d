"""What `prepare` does to samples on their way from a source into shards."""

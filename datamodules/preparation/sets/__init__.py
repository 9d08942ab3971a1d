"""One set of shards, made in steps that a kill cannot spoil."""

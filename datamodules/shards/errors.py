"""ShardError: a shard that is not what it should be."""


class ShardError(ValueError):
    """A shard that is missing, damaged, or disagrees with its manifest; the message names it."""

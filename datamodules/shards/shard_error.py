"""The error of everything that reads or writes shards."""


class ShardError(ValueError):
    """Shards cannot be used as they are; the message names the file, what was found and what to do."""

"""A fair choice of a few out of a stream of any length, without a random state that would have to be kept."""

import hashlib
from bisect import insort
from typing import Any


def rank_of(name: str) -> str:
    """Return the hash of a key or a name that decides whether it is shown."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


class Chosen:
    """The few names with the smallest hashes, and what belongs to each.

    Each name has the same chance, wherever in the stream it stands; neither order nor interruptions make a difference.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.ranked: list[tuple[str, Any]] = []
        """(hash, what belongs to it), ascending."""

    def wants(self, rank: str) -> bool:
        """Return whether a name with this hash is among the few so far, and not there yet."""
        is_small = len(self.ranked) < self.most or rank < self.ranked[-1][0]
        return is_small and all(rank != other for other, _ in self.ranked)

    def take(self, rank: str, content: Any = None) -> None:
        """Take one that is wanted, in place of the last of too many."""
        insort(self.ranked, (rank, content), key=lambda pair: pair[0])
        del self.ranked[self.most :]

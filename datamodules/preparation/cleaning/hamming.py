"""HammingIndex: codes of bits, and which of those added before is nearest to one, without looking at them all."""

from collections.abc import Iterator
from itertools import pairwise


class HammingIndex:
    """Find codes within a Hamming distance, exactly.

    Multi-index hashing (Norouzi, Punjani and Fleet, arXiv:1307.2982, section 3): a code is cut into bands; two codes
    that differ in at most `max_distance` bits differ in at most `max_distance // bands` of some band, so looking up
    each band and its neighbours finds every one. With half as many bands as bits may differ, that is one bit.

    Args:
        num_bits: of a code.
        max_distance: in bits.

    Raises:
        ValueError: the distance is negative, or as large as the code.
    """

    def __init__(self, num_bits: int, max_distance: int) -> None:
        if not 0 <= max_distance < num_bits:
            raise ValueError(
                f"max_distance is {max_distance} of codes of {num_bits} bits: expected from 0 to {num_bits - 1}"
            )
        self.max_distance = max_distance
        bands = (max_distance + 2) // 2
        self.radius = max_distance // bands
        borders = [num_bits * band // bands for band in range(bands + 1)]
        self.bands = [(low, high - low) for low, high in pairwise(borders)]
        self.buckets: list[dict[int, list[int]]] = [{} for _ in self.bands]
        self.codes: list[int] = []

    def __len__(self) -> int:
        return len(self.codes)

    def add(self, code: int) -> int:
        """Add a code and return its number, counted from 0."""
        self.codes.append(code)
        for buckets, piece in zip(self.buckets, self._pieces(code), strict=True):
            buckets.setdefault(piece, []).append(len(self.codes) - 1)
        return len(self.codes) - 1

    def nearest(self, code: int) -> tuple[int, int] | None:
        """Return distance and number of the nearest code within `max_distance`, the earliest of several, or None."""
        near = (
            (distance, number)
            for number in self._candidates(code)
            if (distance := self._distance(code, number)) <= self.max_distance
        )
        return min(near, default=None)

    def _distance(self, code: int, number: int) -> int:
        return (code ^ self.codes[number]).bit_count()

    def _candidates(self, code: int) -> Iterator[int]:
        for (_, width), buckets, piece in zip(self.bands, self.buckets, self._pieces(code), strict=True):
            yield from buckets.get(piece, ())
            for bit in range(width if self.radius else 0):
                yield from buckets.get(piece ^ 1 << bit, ())

    def _pieces(self, code: int) -> Iterator[int]:
        return (code >> low & (1 << width) - 1 for low, width in self.bands)

"""Histogram: how values are spread, counted in a stream, so that it can be stopped, kept and gone on with."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

PER_DECADE = 10


@dataclass
class Histogram:
    """Counts of values in bins that are known in advance, however many values come, whatever their range.

    Bins are `width` wide; without a width they are tenths of a decade, each 1.26 times as wide as the one before. On
    that scale a value that is not above 0 has no place and is counted apart.
    """

    width: float | None = None
    """Of one bin, in the values' unit; None for bins on a logarithmic scale."""
    bins: Counter[int] = field(default_factory=Counter)
    """Number of a bin -> values in it."""
    not_positive: int = 0
    """Values of at most 0 on a logarithmic scale."""
    least: float = math.inf
    most: float = -math.inf

    def add(self, value: float) -> None:
        """Count a value.

        Raises:
            ValueError: it is not finite.
        """
        if not math.isfinite(value):
            raise ValueError(
                f"found {value} to count; expected a finite number. Leave out what has no value."
            )
        self.least, self.most = min(self.least, value), max(self.most, value)
        if self.width is None and value <= 0:
            self.not_positive += 1
        else:
            # A product that should be whole may fall short by a rounding error: 1000 belongs to the bin it opens.
            self.bins[math.floor(self.place(value) + 1e-9)] += 1

    def __len__(self) -> int:
        """Return how many values were counted."""
        return self.not_positive + self.bins.total()

    def place(self, value: float) -> float:
        """Return where a value lies, in bins: the whole part is the number of its bin."""
        return value / self.width if self.width else math.log10(value) * PER_DECADE

    def edge(self, number: int) -> float:
        """Return where the bin of this number begins."""
        return number * self.width if self.width else 10 ** (number / PER_DECADE)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield number and count of each bin from the first to the last that holds a value, empty ones as well."""
        if self.bins:
            yield from ((number, self.bins[number]) for number in range(min(self.bins), max(self.bins) + 1))

    def quantile(self, share: float) -> float:
        """Return about the value that this share of all lies below: right to within its bin. Of nothing it is 0."""
        below, wanted = self.not_positive, share * len(self)
        for number, count in self:
            if count and below + count >= wanted:
                low, high = self.edge(number), self.edge(number + 1)
                return min(self.most, max(self.least, low + (high - low) * max(0, wanted - below) / count))
            below += count
        return 0.0

    def to_plain(self) -> dict[str, Any]:
        """Return all of it as values that JSON holds."""
        counts = {str(number): count for number, count in sorted(self.bins.items())}
        spread = {"least": self.least, "most": self.most} if len(self) else {}
        return {"width": self.width, "bins": counts, "not_positive": self.not_positive, **spread}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Histogram":
        """Return what `to_plain` was called on.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is nothing that `to_plain` returned.
        """
        histogram = cls(None if plain["width"] is None else float(plain["width"]))
        histogram.bins.update({int(number): int(count) for number, count in plain["bins"].items()})
        histogram.not_positive = int(plain["not_positive"])
        if len(histogram):
            histogram.least, histogram.most = float(plain["least"]), float(plain["most"])
        return histogram

"""Engine: what examines samples for a set."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from datamodules.preparation.engines.examining import Examined
from datamodules.sources.source import Dropped, Sample


class Engine(Protocol):
    """Where samples are examined: in worker processes of this machine, or on many machines."""

    def examine(
        self, name: str, items: Iterable[Sample | Dropped], first: int, total: int, spill: Path
    ) -> Iterator[Examined]:
        """Yield what comes of items, in order, a bounded number ahead.

        Args:
            name: of the set.
            items: of its source, from number `first` on.
            first: number of the first item.
            total: about how many there are.
            spill: a folder, there or not, for what is too large to stay in memory.
        """
        ...

"""Step: what is done to the kept samples of a shard before it is written, many at once, such as running a model."""

from abc import ABC, abstractmethod
from typing import Any

from datamodules.sources.source import Dropped, Sample


class Step(ABC):
    """Work on the samples of one shard, in the main process. Subclasses are dataclasses.

    What it returns may depend on nothing but the samples: a set that is prepared in two goes must have the same
    bytes as one that is prepared in one.
    """

    @abstractmethod
    def __call__(self, samples: list[Sample]) -> list[Sample | Dropped]:
        """Return for each sample, in order, what becomes of it: the members of `samples` are bytes."""

    def report(self) -> dict[str, Any]:
        """Return this step's entries of the manifest at the end, as plain values."""
        return {}

    def identity(self) -> dict[str, Any]:
        """Return what shapes the result beyond the arguments, such as a model's sha256: it stands in the manifest."""
        return {}

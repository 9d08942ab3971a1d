"""Step: what is done to the kept samples of a shard before it is written, many at once, such as running a model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from datamodules.sources.source import Dropped, Sample


class Step(ABC):
    """Work on the samples of one shard, in the main process. Subclasses are dataclasses.

    What it returns may depend on nothing but the samples and what `restore` brings back: a set that is prepared in
    two goes must have the same bytes as one that is prepared in one.
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

    def state(self) -> dict[str, Any]:
        """Return what the step remembers from shard to shard, such as its counts, as JSON holds it."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned when the run was stopped. A step with a state gives both."""
        if state:
            raise NotImplementedError(f"{type(self).__name__} gives `state` and lacks `restore`")

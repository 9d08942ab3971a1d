"""Target: a modality that says what is right, and the check that a set's answers are among those that are meant."""

from abc import ABC, abstractmethod
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from datamodules.modalities.bad_sample import BadSample

if TYPE_CHECKING:
    from datamodules.stream import SampleSet

NUM_CHECKED = 1000


class TargetError(ValueError):
    """Targets of a set that are not what the model is asked for."""


class Target(ABC):
    """A modality of labels, tags or numbers; each is small, so that many can be looked at before training."""

    members: tuple[str, ...]

    @abstractmethod
    def decode(self, data: bytes, member: str) -> Any:
        """Return one value; raises BadSample."""

    def augment(self, value: Any, rng: np.random.Generator) -> Any:
        return value

    @abstractmethod
    def collate(self, values: list[Any]) -> dict[str, Tensor]:
        """Return Inputs; no values give zero rows."""


def check_targets(what: str, samples: "SampleSet", max_bad_fraction: float) -> None:
    """Look at targets of samples all over a set before anything is trained; shards of URLs are not fetched for it.

    Args:
        what: the set, for messages.
        samples: of the set.
        max_bad_fraction: of those that are looked at.

    Raises:
        TargetError: more of them than `max_bad_fraction` cannot be used; says how many, why, and which.
    """
    for name, modality in samples.modalities.items():
        if not isinstance(modality, Target):
            continue
        bad: Counter[str] = Counter()
        places = [p for p in _spread(samples) if name in samples.members(p)]
        for position in places:
            extension = samples.members(position)[name]
            try:
                modality.decode(samples.reader.read(position, extension), extension)
            except BadSample as error:
                bad[str(error)] += 1
        if sum(bad.values()) > max_bad_fraction * len(places):
            found = "; ".join(f"{reason} ({count} ×)" for reason, count in bad.most_common(5))
            raise TargetError(
                f"{what}: {sum(bad.values())} of {len(places)} samples looked at have a {name} that the model cannot "
                f"take: {found}. Name in the config what is there, or prepare the shards again"
            )


def _spread(samples: "SampleSet") -> list[int]:
    """Return positions of samples that are at hand, evenly spread."""
    is_local = np.array([not isinstance(tar, str) for tar in samples.reader.tars], dtype=bool)
    local = samples.positions[is_local[samples.shards()]]
    places = np.linspace(0, len(local) - 1, min(NUM_CHECKED, len(local))).round().astype(np.int64)
    return local[places].tolist()

"""Scores of a task over a whole set, and the interface of what counts them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class Scores:
    """What was counted.

    Args:
        figures: name -> one number for the whole set; those that cannot be told are not there.
        count: how many were judged.
        unit: what was counted, in the plural.
        rows: class -> name -> number, in the order of the classes.
    """

    figures: dict[str, float]
    count: int
    unit: str
    rows: dict[str, dict[str, float]] = field(default_factory=dict)


class Tally(nn.Module, ABC):
    """Counts answers and never averages them: its scores do not depend on batches or on ranks."""

    @abstractmethod
    def update(self, *answers: Tensor) -> None:
        """Add the answers of a batch; none are as good as any other number."""

    @abstractmethod
    def scores(self) -> Scores:
        """Return the scores of all answers of all ranks; every rank must call it."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all answers."""


def ratio(part: float, whole: float) -> float:
    """Return part / whole, 0 where the whole is nothing."""
    return part / whole if whole else 0.0


def class_row(hits: int, said: int, support: int) -> dict[str, float]:
    """Return precision, recall, F1, support and how often it was said.

    Args:
        hits: how often the class was said rightly.
        said: how often it was said.
        support: how often it was right to say it.
    """
    return {
        "precision": ratio(hits, said),
        "recall": ratio(hits, support),
        "f1": ratio(2 * hits, said + support),
        "support": support,
        "said": said,
    }


def mean_of_rows(rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the means of precision, recall and F1 over the classes that are there or were said (macro)."""
    seen = [row for row in rows.values() if row["support"] or row["said"]]
    return {
        f"macro_{name}": ratio(sum(row[name] for row in seen), len(seen))
        for name in ("precision", "recall", "f1")
    }

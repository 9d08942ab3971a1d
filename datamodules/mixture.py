"""Mixture: several sources by weight, exact in every period, so that any position is found without those before it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.shards.order import Order

MAX_PERIOD = 1000


@dataclass
class MixtureSource:
    """One source of a mixture."""

    paths: str | list[str]
    """Folders of shards, tars, patterns, lists or URLs."""
    weight: float = 1.0
    """How much of the training comes from it, relative to the other sources."""

    def __post_init__(self) -> None:
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise ValueError(
                f"the weight of {self.paths} is {self.weight}: expected more than 0; to have none of it, leave it out"
            )


class Mixture:
    """Positions of several orders, joined: in every period each has its quota of the places, in an order of its own.

    Each source goes through its own epochs, and starts anew when it is through. Places of source i before position p
    are `p // period * quota[i]` and those in the last period, so that the cursor stays one integer.

    Args:
        orders: one for each source; the samples of one follow those of the one before.
        weights: positive.
        seed: of where in a period each source comes.

    Attributes:
        quotas: places of each source in a period, by largest remainder.

    Raises:
        ValueError: when a weight is so small beside the others that it has no place in a period.
    """

    def __init__(self, orders: Sequence[Order], weights: Sequence[float], *, seed: int) -> None:
        self.orders, self.seed = list(orders), seed
        self.quotas = quotas(weights)
        self.period = int(self.quotas.sum())
        self.offsets = np.cumsum([0, *(order.num_samples for order in self.orders)])
        self._number, self._sources, self._ranks = -1, np.empty(0, np.int64), np.empty(0, np.int64)

    def span(self, start: int, stop: int) -> np.ndarray:
        found = np.empty(stop - start, np.int64)
        for position in range(start, stop):
            number, slot = divmod(position, self.period)
            self._turn_to(number)
            source = self._sources[slot]
            count = number * int(self.quotas[source]) + int(self._ranks[slot])
            found[position - start] = self.offsets[source] + self.orders[source](count)
        return found

    def _turn_to(self, number: int) -> None:
        """Lay out a period: which source each place has, and how many of its own come before in the period."""
        if number == self._number:
            return
        generator = np.random.default_rng(np.random.SeedSequence((self.seed, 2, number)))
        self._sources = generator.permutation(np.repeat(np.arange(len(self.quotas)), self.quotas))
        self._ranks = np.empty(self.period, np.int64)
        for source, quota in enumerate(self.quotas):
            self._ranks[self._sources == source] = np.arange(quota)
        self._number = number


def quotas(weights: Sequence[float]) -> np.ndarray:
    """Return how many places each weight has in a period of at most 1000, the one that the weights fit best.

    Raises:
        ValueError: when a weight is too small for one place.
    """
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    periods = range(MAX_PERIOD, max(0, len(shares) - 1), -1)
    best = min(
        periods,
        key=lambda period: round(float(np.abs(_apportion(shares, period) / period - shares).max()), 9),
    )
    found = _apportion(shares, best)
    if not found.all():
        raise ValueError(
            f"weights {list(weights)} give one source less than one sample in {MAX_PERIOD}: raise it, or leave it out"
        )
    return found


def _apportion(shares: np.ndarray, places: int) -> np.ndarray:
    """Share places out by the largest remainder (Hamilton's method)."""
    exact = np.round(shares * places, 9)
    found = np.floor(exact).astype(np.int64)
    found[np.argsort(found - exact, kind="stable")[: places - found.sum()]] += 1
    return found

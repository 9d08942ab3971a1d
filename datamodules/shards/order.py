"""Order: which sample comes at a global position, as a pure function of seed, epoch and position."""

from typing import Protocol

import numpy as np


class Positions(Protocol):
    """Which sample comes where; nothing is kept of what came before, so any position is as near as any other."""

    def span(self, start: int, stop: int) -> np.ndarray:
        """Return the samples at the global positions from `start` to before `stop`, (stop - start,) int64."""


class Order:
    """A new permutation of the samples every epoch; position p is place `p % samples` of epoch `p // samples`.

    The permutation of one epoch is kept (8 bytes a sample), so that the next look-up costs nothing.

    Args:
        num_samples: samples in an epoch.
        seed: of all permutations; several numbers where one run has several orders.
        shuffle: False gives every epoch the order of the shards.
        shards: (num_samples,), the shard of each sample; with `shards_at_once`.
        shards_at_once: shuffles the shards, and then the samples of so many shards at a time, so that no more of them
            are read at once. None shuffles all samples.

    Raises:
        ValueError: when there are no samples.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        seed: int | tuple[int, ...],
        shuffle: bool = True,
        shards: np.ndarray | None = None,
        shards_at_once: int | None = None,
    ) -> None:
        if num_samples < 1:
            raise ValueError("there are no samples to put in order")
        self.num_samples, self.shuffle = num_samples, shuffle
        self.seed = seed if isinstance(seed, tuple) else (seed,)
        self.shards, self.shards_at_once = shards, shards_at_once
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def __call__(self, position: int) -> int:
        """Return the sample at a global position."""
        epoch, place = divmod(position, self.num_samples)
        return int(self._of(epoch)[place]) if self.shuffle else place

    def span(self, start: int, stop: int) -> np.ndarray:
        positions = np.arange(start, stop)
        if not self.shuffle:
            return positions % self.num_samples
        found = [
            self._of(epoch)[
                max(0, start - epoch * self.num_samples) : min(
                    self.num_samples, stop - epoch * self.num_samples
                )
            ]
            for epoch in range(start // self.num_samples, -(-stop // self.num_samples))
        ]
        return np.concatenate(found) if found else positions

    def _of(self, epoch: int) -> np.ndarray:
        """Return the permutation of an epoch."""
        if epoch != self._epoch:
            generator = np.random.default_rng(np.random.SeedSequence((*self.seed, epoch)))
            self._permutation, self._epoch = self._permuted(generator), epoch
        return self._permutation

    def _permuted(self, generator: np.random.Generator) -> np.ndarray:
        if self.shards is None or self.shards_at_once is None:
            return generator.permutation(self.num_samples)
        group = generator.permutation(int(self.shards.max()) + 1) // self.shards_at_once
        return np.argsort(group[self.shards] + generator.random(self.num_samples), kind="stable")

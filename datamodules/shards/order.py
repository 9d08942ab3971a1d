"""Order: which sample comes at a global position, as a pure function of seed, epoch and position."""

import numpy as np


class Order:
    """A new permutation of the samples every epoch; position p is place `p % samples` of epoch `p // samples`.

    The permutation of one epoch is kept (8 bytes a sample), so that the next look-up costs nothing.

    Args:
        num_samples: samples in an epoch.
        seed: of all permutations.
        shuffle: False gives every epoch the order of the shards.

    Raises:
        ValueError: when there are no samples.
    """

    def __init__(self, num_samples: int, *, seed: int, shuffle: bool = True) -> None:
        if num_samples < 1:
            raise ValueError("there are no samples to put in order")
        self.num_samples, self.seed, self.shuffle = num_samples, seed, shuffle
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def __call__(self, position: int) -> int:
        """Return the sample at a global position."""
        epoch, place = divmod(position, self.num_samples)
        if not self.shuffle:
            return place
        if epoch != self._epoch:
            generator = np.random.default_rng(np.random.SeedSequence((self.seed, epoch)))
            self._permutation, self._epoch = generator.permutation(self.num_samples), epoch
        return int(self._permutation[place])

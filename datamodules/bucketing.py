"""LengthBuckets: batches of samples of like length, so that little is padding, from any position."""

import numpy as np

from datamodules.shards.order import Positions


class LengthBuckets:
    """Positions of another order, sorted by length within windows of whole batches, the batches then shuffled.

    Windows begin at multiples of their own size, whatever the position that a run begins at: within each, positions are
    permuted by a pure function of seed and window, so that nothing is lost or repeated where a run goes on. All ranks
    get like lengths in the same step, since they share one batch.

    Args:
        order: which samples come.
        lengths: (samples,), of each sample; those of 0 stand together.
        batch_size: over all ranks.
        num_batches: of one window; more of them pad less, and come in an order that is more by length.
        seed: of the order of batches.

    Raises:
        ValueError: when a number is below 1.
    """

    def __init__(
        self, order: Positions, lengths: np.ndarray, *, batch_size: int, num_batches: int, seed: int
    ) -> None:
        if batch_size < 1 or num_batches < 1:
            raise ValueError(
                f"batch_size is {batch_size}, num_batches {num_batches}: expected at least 1 each"
            )
        self.order, self.lengths, self.seed = order, lengths, seed
        self.batch_size, self.window = batch_size, batch_size * num_batches
        self._number, self._samples = -1, np.empty(0, np.int64)

    def span(self, start: int, stop: int) -> np.ndarray:
        found = []
        while start < stop:
            number, place = divmod(start, self.window)
            count = min(stop - start, self.window - place)
            found.append(self._of(number)[place : place + count])
            start += count
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _of(self, number: int) -> np.ndarray:
        if number != self._number:
            samples = self.order.span(number * self.window, (number + 1) * self.window)
            batches = samples[np.argsort(self.lengths[samples], kind="stable")].reshape(-1, self.batch_size)
            generator = np.random.default_rng(np.random.SeedSequence((self.seed, 3, number)))
            self._samples, self._number = generator.permutation(batches).reshape(-1), number
        return self._samples

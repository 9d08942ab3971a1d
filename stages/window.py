"""Window: what several batches in turn weigh, so that a step is that of one large batch."""

import torch
from torch import Tensor


class Window:
    """The batches whose gradients are accumulated for one step, weighed so that the step is that of one large batch.

    Lightning takes the mean of the batches' gradients; a loss that is a mean over terms (tokens, rows) is to be a mean
    over all batches' terms, and how many those are is known at the last. So each batch counts in proportion to its
    terms over those of the first, and the sum is brought to scale before the step.
    """

    def __init__(self) -> None:
        self.counts: list[Tensor] = []

    def weight(self, counts: list[Tensor]) -> Tensor:
        """Return the weight of a batch.

        Args:
            counts: scalars, the terms of each of its losses over all ranks.

        Raises:
            ValueError: when its losses are means over different numbers of terms.
        """
        if not counts:
            raise ValueError("no loss says over how many terms it is a mean: none can be accumulated exactly")
        if any(not torch.equal(count, counts[0]) for count in counts[1:]):
            raise ValueError(
                f"losses are means over different numbers of terms ({', '.join(f'{c:.0f}' for c in counts)}), which "
                "cannot be accumulated exactly: set trainer.accumulate_grad_batches to 1"
            )
        self.counts.append(counts[0])
        return counts[0] / self.counts[0].clamp(min=1)

    def close(self, gradients: list[Tensor], batches: int) -> None:
        """Bring gradients, the mean over `batches` weighed ones, to scale in place, and begin anew."""
        if not self.counts:
            return
        scale = batches * self.counts[0].clamp(min=1) / torch.stack(self.counts).sum().clamp(min=1)
        self.counts = []
        for gradient in gradients:
            gradient.mul_(scale)

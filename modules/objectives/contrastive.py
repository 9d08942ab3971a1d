"""Contrastive objectives over any number of modalities: rows of one sample attract, all others repel.

Shapes: n is the number of rows of a pair of modalities that come from one sample, over all ranks.
"""

import itertools
import math
from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modules.collectives import gather_rows


class Contrastive(nn.Module):
    """The pairwise part: which rows belong together, and one loss for every pair of modalities.

    Rows that lack a modality are left out of that modality's pairs: they are nobody's positive nor negative.
    Negatives come from all ranks, with gradients.

    Args:
        init_logit_scale: the scale that multiplies cosine similarities, at the start.
        max_logit_scale: it is never larger.
    """

    def __init__(self, init_logit_scale: float, max_logit_scale: float = 100.0) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(init_logit_scale)))
        self.max_logit_scale = max_logit_scale

    def scale(self) -> Tensor:
        """Return the factor of the logits, at most `max_logit_scale`."""
        return self.logit_scale.exp().clamp(max=self.max_logit_scale)

    def forward(
        self, embeddings: Mapping[str, Tensor], rows: Mapping[str, Tensor], size: int
    ) -> dict[str, Tensor]:
        """Return one loss for each pair of modalities, such as `image_text`.

        Args:
            embeddings: unit vectors (rows, dim) by modality.
            rows: (rows,) which sample of the batch each row belongs to, by modality.
            size: samples in the batch of this rank.

        Raises:
            ValueError: when there are fewer than two modalities.
        """
        if len(embeddings) < 2:
            raise ValueError(
                f"a contrastive objective needs two modalities, the model has: {', '.join(embeddings)}"
            )
        everyone = {
            name: gather_rows(*spread(vectors, rows[name], size)) for name, vectors in embeddings.items()
        }
        losses = {}
        for first, second in itertools.combinations(sorted(embeddings), 2):
            (a, has_a), (b, has_b) = everyone[first], everyone[second]
            both = has_a & has_b
            losses[f"{first}_{second}"] = self.pair(a[both], b[both])
        return losses

    @abstractmethod
    def pair(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the loss of unit vectors (n, dim) against (n, dim); row i belongs to row i. Zero when n is 0."""


class InfoNCE(Contrastive):
    """CLIP's symmetric cross-entropy (arXiv:2103.00020, figure 3).

    Args:
        init_logit_scale: CLIP's 1 / 0.07.
        max_logit_scale: CLIP's 100.
    """

    def __init__(self, init_logit_scale: float = 1 / 0.07, max_logit_scale: float = 100.0) -> None:
        super().__init__(init_logit_scale, max_logit_scale)

    def pair(self, first: Tensor, second: Tensor) -> Tensor:
        logits = self.scale() * first @ second.T  # (n, n)
        target = torch.arange(len(logits), device=logits.device)
        losses = [nn.functional.cross_entropy(x, target, reduction="sum") for x in (logits, logits.T)]
        return (losses[0] + losses[1]) / (2 * max(1, len(logits)))


class SigLIP(Contrastive):
    """SigLIP's pairwise sigmoid loss (arXiv:2303.15343, eq. 1); the bias starts at -10.

    Args:
        init_logit_scale: SigLIP's 10.
        init_logit_bias: most pairs are negatives, so the start says so.
        max_logit_scale: the scale is never larger.
    """

    def __init__(
        self, init_logit_scale: float = 10.0, init_logit_bias: float = -10.0, max_logit_scale: float = 100.0
    ) -> None:
        super().__init__(init_logit_scale, max_logit_scale)
        self.logit_bias = nn.Parameter(torch.tensor(init_logit_bias))

    def pair(self, first: Tensor, second: Tensor) -> Tensor:
        logits = self.scale() * first @ second.T + self.logit_bias  # (n, n)
        sign = 2 * torch.eye(len(logits), device=logits.device) - 1
        return -nn.functional.logsigmoid(sign * logits).sum() / max(1, len(logits))


def spread(vectors: Tensor, rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Put the vectors (rows, dim) of the samples that have them at their place among all: (size, dim), (size,) bool."""
    everyone = vectors.new_zeros(size, vectors.shape[1]).index_copy(0, rows, vectors)
    present = torch.zeros(size, dtype=torch.bool, device=vectors.device).index_fill(0, rows, True)
    return everyone, present

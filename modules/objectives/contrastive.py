"""Contrastive objectives over any number of modalities: rows of one sample attract, all others repel.

Shapes: n is the number of samples that have both modalities of a pair, over all ranks.
"""

import itertools
import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from modules.collectives import gather_counts
from modules.objectives.aligned import Aligned, AlignmentObjective, shared_rows
from modules.objectives.contrastive_tiles import PairwiseSigmoid, SymmetricCrossEntropy


class Contrastive(AlignmentObjective):
    """The pairwise part: which rows belong together, and one loss for every pair of modalities.

    Rows that lack a modality are left out of that modality's pairs: they are nobody's positive nor negative.
    Negatives come from all ranks, with gradients. Memory is linear in the batch (see contrastive_tiles).

    Args:
        init_logit_scale: the scale that multiplies cosine similarities, at the start.
        max_logit_scale: it is never larger, and never below 1.
        tile: rows and columns of the logits that are in memory at one time.

    Raises:
        ValueError: when the scale starts outside 1 … max_logit_scale, or the tile is not positive.
    """

    def __init__(self, init_logit_scale: float, max_logit_scale: float = 100.0, tile: int = 1024) -> None:
        super().__init__()
        if not 1 <= init_logit_scale <= max_logit_scale:
            raise ValueError(
                f"init_logit_scale is {init_logit_scale}, expected from 1 to max_logit_scale, {max_logit_scale}"
            )
        if tile < 1:
            raise ValueError(f"tile is {tile}, expected at least 1; 1024 suits a CPU")
        self.logit_scale = nn.Parameter(torch.tensor(math.log(init_logit_scale)))
        self.max_logit_scale = max_logit_scale
        self.tile = tile

    def scale(self) -> Tensor:
        """Return the factor of the logits, from 1 to `max_logit_scale`.

        The parameter itself is brought back into its range, as CLIP does after each step: a clamp of the value
        alone has no gradient beyond the limit, and the scale would never come down again.
        """
        with torch.no_grad():
            self.logit_scale.clamp_(0, math.log(self.max_logit_scale))
        return self.logit_scale.exp()

    def losses(self, aligned: Aligned) -> dict[str, Tensor]:
        """Return one loss for each pair of modalities, such as `image_text`: over all ranks, the same on each.

        Raises:
            ValueError: when the embeddings differ in width.
        """
        widths = {name: vectors.shape[1] for name, vectors in aligned.embeddings.items()}
        if len(set(widths.values())) > 1:
            raise ValueError(f"embeddings differ in width, {widths}: project them to one")
        pairs = {}
        for first, second in itertools.combinations(sorted(aligned.embeddings), 2):
            here, there = shared_rows(aligned.rows[first], aligned.rows[second], aligned.size)
            pairs[f"{first}_{second}"] = aligned.embeddings[first][here], aligned.embeddings[second][there]
        lengths = [len(first) for first, _ in pairs.values()]
        by_rank = gather_counts(torch.tensor(lengths, device=self.logit_scale.device))
        by_pair = [list(counts) for counts in zip(*by_rank, strict=True)]
        return {
            name: self.pair(first, second, counts)
            for (name, (first, second)), counts in zip(pairs.items(), by_pair, strict=True)
        }

    @abstractmethod
    def pair(self, first: Tensor, second: Tensor, counts: list[int]) -> Tensor:
        """Return the loss over all ranks of rows that belong together.

        Args:
            first: unit vectors (rows, dim) of this rank.
            second: (rows, dim); its row i belongs to row i of the first.
            counts: rows of every rank, n in all; the loss is zero when n is.
        """


class InfoNCE(Contrastive):
    """CLIP's symmetric cross-entropy (arXiv:2103.00020, figure 3).

    Args:
        init_logit_scale: CLIP's 1 / 0.07.
        max_logit_scale: CLIP's 100.
        tile: rows and columns of the logits that are in memory at one time.
    """

    def __init__(
        self, init_logit_scale: float = 1 / 0.07, max_logit_scale: float = 100.0, tile: int = 1024
    ) -> None:
        super().__init__(init_logit_scale, max_logit_scale, tile)

    def pair(self, first: Tensor, second: Tensor, counts: list[int]) -> Tensor:
        return SymmetricCrossEntropy.apply(first, second, self.scale(), counts, self.tile)


class SigLIP(Contrastive):
    """SigLIP's pairwise sigmoid loss (arXiv:2303.15343, eq. 1).

    Args:
        init_logit_scale: SigLIP's 10.
        init_logit_bias: most pairs are negatives, so the start says so. None leaves the bias out.
        max_logit_scale: the scale is never larger.
        tile: rows and columns of the logits that are in memory at one time.
    """

    def __init__(
        self,
        init_logit_scale: float = 10.0,
        init_logit_bias: float | None = -10.0,
        max_logit_scale: float = 100.0,
        tile: int = 1024,
    ) -> None:
        super().__init__(init_logit_scale, max_logit_scale, tile)
        learned = init_logit_bias is not None
        self.logit_bias = nn.Parameter(torch.tensor(init_logit_bias or 0.0), requires_grad=learned)

    def pair(self, first: Tensor, second: Tensor, counts: list[int]) -> Tensor:
        return PairwiseSigmoid.apply(first, second, self.scale(), self.logit_bias, counts, self.tile)

"""Contrastive objectives over any number of modalities: rows of one sample attract, all others repel.

Shapes: n is the number of samples that have both modalities of a pair, over all ranks.
"""

import itertools
import math
from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modules.collectives import gather_counts
from modules.objectives.contrastive_tiles import PairwiseSigmoid, SymmetricCrossEntropy


class Contrastive(nn.Module):
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

    def forward(
        self, embeddings: Mapping[str, Tensor], rows: Mapping[str, Tensor], size: int
    ) -> dict[str, Tensor]:
        """Return one loss for each pair of modalities, such as `image_text`: over all ranks, the same on each.

        A pair that no sample of the batch has gives zero, with its graph.

        Args:
            embeddings: unit vectors (rows, dim) by modality.
            rows: (rows,) which sample of the batch each row belongs to, by modality.
            size: samples in the batch of this rank.

        Raises:
            ValueError: when there are fewer than two modalities, or their widths differ.
        """
        if len(embeddings) < 2:
            raise ValueError(
                f"a contrastive objective needs two modalities, the model has: {', '.join(embeddings)}"
            )
        widths = {name: vectors.shape[1] for name, vectors in embeddings.items()}
        if len(set(widths.values())) > 1:
            raise ValueError(f"embeddings differ in width, {widths}: project them to one")
        pairs = {
            f"{first}_{second}": (
                embeddings[first][shared[0]],
                embeddings[second][shared[1]],
            )
            for first, second in itertools.combinations(sorted(embeddings), 2)
            for shared in [shared_rows(rows[first], rows[second], size)]
        }
        lengths = [len(first) for first, _ in pairs.values()]
        counts = gather_counts(torch.tensor(lengths, device=self.logit_scale.device))
        return {
            name: self.pair(*pair, counts=[theirs[number] for theirs in counts])
            for number, (name, pair) in enumerate(pairs.items())
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


def shared_rows(first: Tensor, second: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the rows of two modalities that belong to the same samples, in the order of the first.

    Args:
        first: (rows,) which sample each row of the first modality belongs to.
        second: (rows,) the same for the second.
        size: samples in the batch.
    """
    place = torch.full((size,), -1, device=second.device).index_copy(
        0, second, torch.arange(len(second), device=second.device)
    )
    match = place[first]
    here = match >= 0
    return here.nonzero().squeeze(1), match[here]

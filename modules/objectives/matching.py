"""Matching: do these two belong together, asked of a fusion about true pairs and the hardest false ones."""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules.collectives import global_mean
from modules.fusion.fusion import Fusion, FusionSource, as_fusion
from modules.objectives.aligned import Aligned, AlignmentObjective, select, shared_rows
from modules.objectives.draws import Draws
from modules.parts import Part
from modules.tokens import Tokens


class MatchingHead(Part):
    """Two logits of a fused vector, (rows, dim) to (rows, 2): apart, and together.

    Args:
        dim: width of the fusion.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.linear = nn.Linear(dim, 2)

    def init_args(self) -> dict[str, Any]:
        return {"dim": self.dim}

    def forward(self, fused: Tensor) -> Tensor:
        return self.linear(fused)


class Matching(AlignmentObjective):
    """ALBEF's image-text matching with hard negatives (arXiv:2107.07651, section 3.2, eq. 4), for any two modalities.

    Of n true pairs on this rank come 3 n questions: each pair, each first with a false second, each second with a
    false first. A false partner is drawn with the probability that a softmax over the contrastive similarities gives
    it. Differs in that the draw is by Gumbel's trick, exact where a softmax would underflow, and depends on the seed
    and the step alone. A sample that is alone with its modalities has no false partner and asks nothing.

    Both are handed over, as the parts `fusion` and `matching_head`.

    Args:
        fusion: takes all the modalities of the model; it is asked about two at a time. A class without its `widths`,
            which are the encoders', or the part of an earlier run.
        head: the part of an earlier run; a new one where none is given.
        logit_scale: of the cosine similarities; the larger, the harder the false partners.
        seed: of the draw.

    Raises:
        ValueError: when fusion and head do not fit each other; `configure`, when the fusion does not fit the encoders.
    """

    fusion: Fusion
    head: MatchingHead

    def __init__(
        self,
        fusion: FusionSource,
        head: Part | None = None,
        logit_scale: float = 1 / 0.07,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.logit_scale = logit_scale
        self.draws = Draws(seed)
        self.plan: tuple[FusionSource, Part | None] | None = (fusion, head)
        if isinstance(fusion, Part):
            self._build(self.plan, {})

    def _build(self, plan: tuple[FusionSource, Part | None], widths: Mapping[str, int]) -> None:
        self.fusion = as_fusion(plan[0], widths)
        self.head = _fitting(plan[1] or MatchingHead(self.fusion.dim), self.fusion.dim)
        self.plan = None

    def configure(self, widths: Mapping[str, int], dim: int) -> None:
        if self.plan is not None:
            self._build(self.plan, widths)
        self.fusion.check_widths(widths)

    def exports(self) -> dict[str, Part]:
        return {"fusion": self.fusion, "matching_head": self.head}

    def losses(self, aligned: Aligned) -> dict[str, Tensor]:
        """Return one cross-entropy for each pair of modalities, such as `matching_image_text`."""
        generator = self.draws.next()
        losses = {}
        for first, second in itertools.combinations(sorted(aligned.embeddings), 2):
            here, there = shared_rows(aligned.rows[first], aligned.rows[second], aligned.size)
            similarity = aligned.embeddings[first][here] @ aligned.embeddings[second][there].T
            false_second = hard_negatives(self.logit_scale * similarity, generator)
            false_first = hard_negatives(self.logit_scale * similarity.T, generator)
            if len(here) < 2:
                here, there, false_first, false_second = (
                    x[:0] for x in (here, there, false_first, false_second)
                )
            questions = {
                first: select(aligned.tokens[first], torch.cat([here, here, here[false_first]])),
                second: select(aligned.tokens[second], torch.cat([there, there[false_second], there])),
            }
            answer = torch.zeros(3 * len(here), dtype=torch.int64, device=here.device)
            answer[: len(here)] = 1
            losses[f"matching_{first}_{second}"] = self.judge(questions, answer)
        return losses

    def judge(self, questions: dict[str, Tokens], answer: Tensor) -> Tensor:
        """Return the mean cross-entropy of what the fusion answers, over all ranks.

        Args:
            questions: Tokens by modality; row i of one and row i of the other make a pair.
            answer: (rows,), int64: 1 where they belong together.
        """
        each = torch.arange(len(answer), device=answer.device)
        fused = self.fusion(questions, dict.fromkeys(questions, each), len(answer))
        logits = self.head(fused.tokens.pooled()).float()  # (rows, 2)
        return global_mean(nn.functional.cross_entropy(logits, answer, reduction="sum"), len(answer))


def _fitting(head: Part, dim: int) -> MatchingHead:
    if not isinstance(head, MatchingHead):
        raise ValueError(
            f"the head of matching was given a {type(head).__name__}, expected a MatchingHead: name the folder of a "
            "part that is called matching_head"
        )
    if head.dim != dim:
        raise ValueError(
            f"the head of matching takes {head.dim} features, the fusion gives {dim}: take both from one run, or "
            "leave the head out to start a new one"
        )
    return head


@torch.no_grad()
def hard_negatives(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw for each row one column that is not its own, by the softmax of the row: (n,), int64.

    Args:
        logits: (n, n); entry (i, i) is the pair that belongs together.
        generator: on the CPU.
    """
    if not len(logits):
        return torch.zeros(0, dtype=torch.int64, device=logits.device)
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64).to(logits)
    tiny = torch.finfo(logits.dtype).tiny
    gumbel = -(-uniform.clamp(tiny, 1 - torch.finfo(logits.dtype).eps).log()).log()
    return (logits + gumbel).fill_diagonal_(-torch.inf).argmax(1)

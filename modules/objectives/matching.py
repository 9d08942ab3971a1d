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
    it. Differs in that the draw is by Gumbel's trick, exact where a softmax would underflow, and in that partners are
    sought among `group` neighbours in the batch: where every rank's share is a multiple of it, the loss does not
    depend on the number of ranks. A sample that is alone with its modalities has no false partner and asks nothing.

    Both are handed over, as the parts `fusion` and `matching_head`.

    Args:
        fusion: takes all the modalities of the model; it is asked about two at a time. A class without its `widths`,
            which are the encoders', or the part of an earlier run.
        head: the part of an earlier run; a new one where none is given.
        logit_scale: of the cosine similarities; the larger, the harder the false partners.
        group: samples among which a false partner is sought; no more than a rank's share of the batch is at hand.
        seed: of the draw.

    Raises:
        ValueError: when a group has fewer than two samples, or fusion and head do not fit each other; `configure`, when
            the fusion does not fit the encoders.
    """

    fusion: Fusion
    head: MatchingHead

    def __init__(
        self,
        fusion: FusionSource,
        head: Part | None = None,
        logit_scale: float = 1 / 0.07,
        group: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if group < 2:
            raise ValueError(
                f"group is {group}: a false partner needs two samples: set it to 2 or more, 32 is usual"
            )
        self.logit_scale, self.group = logit_scale, group
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
        pairs = list(itertools.combinations(sorted(aligned.embeddings), 2))
        luck = self.draws.uniform(aligned.size, 2 * len(pairs) * self.group).chunk(2 * len(pairs), dim=1)
        losses = {}
        for number, (first, second) in enumerate(pairs):
            here, there = shared_rows(aligned.rows[first], aligned.rows[second], aligned.size)
            samples = aligned.rows[first][here]
            here, there, samples = (x[self._has_partner(samples)] for x in (here, there, samples))
            similarity = aligned.embeddings[first][here] @ aligned.embeddings[second][there].T
            similarity = self.logit_scale * similarity.detach()
            false_second = self._partners(similarity, samples, luck[2 * number])
            false_first = self._partners(similarity.T, samples, luck[2 * number + 1])
            questions = {
                first: select(aligned.tokens[first], torch.cat([here, here, here[false_first]])),
                second: select(aligned.tokens[second], torch.cat([there, there[false_second], there])),
            }
            answer = torch.zeros(3 * len(here), dtype=torch.int64, device=here.device)
            answer[: len(here)] = 1
            losses[f"matching_{first}_{second}"] = self.judge(questions, answer)
        return losses

    def _has_partner(self, samples: Tensor) -> Tensor:
        """Say which samples (n,) are not alone in their group, (n,) bool."""
        group = samples // self.group
        return (group.unsqueeze(1) == group).sum(1) > 1

    def _partners(self, logits: Tensor, samples: Tensor, luck: Tensor) -> Tensor:
        """Return for each row a column of its group that is not its own, (n,) int64.

        Args:
            logits: (n, n).
            samples: (n,), places in the batch.
            luck: (size, group), from 0 to 1, for each sample and place within its group.
        """
        group, place = samples // self.group, samples % self.group
        uniform = luck.to(logits.device)[samples][:, place]
        return hard_negatives(logits.masked_fill(group.unsqueeze(1) != group, -torch.inf), uniform)

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


def hard_negatives(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw for each row one column that is not its own, by the softmax of the row: (n,), int64.

    Args:
        logits: (n, n); entry (i, i) is the pair that belongs together; -inf where none may be drawn.
        uniform: (n, n), random numbers from 0 to 1.
    """
    if not len(logits):
        return torch.zeros(0, dtype=torch.int64, device=logits.device)
    gumbel = -(-uniform.clamp(1e-300, 1 - 1e-16).log()).log()
    return (logits.double() + gumbel).fill_diagonal_(-torch.inf).argmax(1)

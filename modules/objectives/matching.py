"""Matching: do these two belong together, asked of a fusion about true pairs and the hardest false ones."""

import itertools

import torch
from torch import Tensor, nn

from modules.collectives import global_mean
from modules.fusion.fusion import Fusion
from modules.objectives.aligned import Aligned, AlignmentObjective, select, shared_rows
from modules.objectives.draws import Draws
from modules.tokens import Tokens


class Matching(AlignmentObjective):
    """ALBEF's image-text matching with hard negatives (arXiv:2107.07651, section 3.2, eq. 4), for any two modalities.

    Of n true pairs on this rank come 3 n questions: each pair, each first with a false second, each second with a
    false first. A false partner is drawn with the probability that a softmax over the contrastive similarities gives
    it. Differs in that the draw is by Gumbel's trick, exact where a softmax would underflow, and in that partners are
    sought among `group` neighbours in the batch: where every rank's share is a multiple of it, the loss does not
    depend on the number of ranks. A sample that is alone with its modalities has no false partner and asks nothing.

    Args:
        fusion: built for all the modalities of the model; it is asked about two at a time.
        logit_scale: of the cosine similarities; the larger, the harder the false partners.
        group: samples among which a false partner is sought; no more than a rank's share of the batch is at hand.
        seed: of the draw.

    Raises:
        ValueError: when a group has fewer than two samples.
    """

    def __init__(self, fusion: Fusion, logit_scale: float = 1 / 0.07, group: int = 32, seed: int = 0) -> None:
        super().__init__()
        if group < 2:
            raise ValueError(f"group is {group}: a false partner needs two samples or more; 32 is usual")
        self.fusion = fusion
        self.linear = nn.Linear(self.fusion.dim, 2)
        self.logit_scale, self.group = logit_scale, group
        self.draws = Draws(seed)

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
        logits = self.linear(fused.tokens.pooled()).float()  # (rows, 2)
        return global_mean(nn.functional.cross_entropy(logits, answer, reduction="sum"), len(answer))


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

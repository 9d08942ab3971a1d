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
    it. Differs in that the draw is by Gumbel's trick, exact where a softmax would underflow, and depends on the seed,
    the step and the rank alone. A sample that is alone with its modalities has no false partner and asks nothing.

    False partners are a rank's own, as in ALBEF: the fusion looks at all tokens of a pair, and sending those of every
    rank to every other would cost more than harder negatives are worth. The loss is the mean over the questions of all
    ranks; another number of ranks asks others.

    Args:
        fusion: built for all the modalities of the model; it is asked about two at a time.
        logit_scale: of the cosine similarities; the larger, the harder the false partners.
        seed: of the draw.
    """

    def __init__(self, fusion: Fusion, logit_scale: float = 1 / 0.07, seed: int = 0) -> None:
        super().__init__()
        self.fusion = fusion
        self.linear = nn.Linear(self.fusion.dim, 2)
        self.logit_scale = logit_scale
        self.draws = Draws(seed)

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
        logits = self.linear(fused.tokens.pooled()).float()  # (rows, 2)
        return global_mean(nn.functional.cross_entropy(logits, answer, reduction="sum"), len(answer))


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

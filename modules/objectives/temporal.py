"""TemporalAlignment: two sequences of one sample, such as frames and speech, step by step in order."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import normalize

from modules.collectives import global_mean
from modules.objectives.aligned import Aligned, AlignmentObjective, select, shared_rows
from modules.objectives.soft_dtw import soft_dtw
from modules.tokens import Tokens


class TemporalAlignment(AlignmentObjective):
    """Soft-DTW (arXiv:1703.01541) between the tokens of two modalities, at cost 1 - cosine, for each step of both.

    The value of a pair is divided by the sum of its lengths, so that long samples do not outweigh short ones. Tokens
    must follow time (frames of a video, spans of sound); padding may stand anywhere. It knows no negatives: alone it
    would make all tokens one; set it beside a contrastive objective (`Weighted`).

    Args:
        widths: of the two encoders' tokens, by modality.
        dim: width that both are projected to.
        gamma: softness of the minimum over alignments.

    Raises:
        ValueError: when `widths` does not name exactly two modalities, or gamma is not positive; `configure`, when
            one is missing from the model or its tokens are not as wide.
    """

    compares_samples = False

    def __init__(self, widths: Mapping[str, int], dim: int, gamma: float = 0.1) -> None:
        super().__init__()
        if len(widths) != 2:
            raise ValueError(
                f"alignment in time is between two modalities, widths names {len(widths)}: "
                f"{', '.join(widths) or 'none'}"
            )
        if not gamma > 0:
            raise ValueError(
                f"gamma is {gamma}, expected more than 0; 0.1 is usual, 0.01 nearly a hard minimum"
            )
        self.widths, self.gamma = dict(widths), gamma
        self.projections = nn.ModuleDict(
            {name: nn.Linear(width, dim, bias=False) for name, width in widths.items()}
        )

    def configure(self, widths: Mapping[str, int], dim: int) -> None:
        for name, width in self.widths.items():
            if name not in widths:
                raise ValueError(
                    f"alignment in time asks for {name}, the model has {', '.join(widths)}: name two of these"
                )
            if widths[name] != width:
                raise ValueError(
                    f"the {name} encoder's tokens are {widths[name]} wide, widths says {width}: say {widths[name]}"
                )

    def losses(self, aligned: Aligned) -> dict[str, Tensor]:
        """Return `temporal_<first>_<second>`, the mean over all samples of all ranks that have both."""
        first, second = self.widths
        here, there = shared_rows(aligned.rows[first], aligned.rows[second], aligned.size)
        ours = padded_behind(select(aligned.tokens[first], here))
        theirs = padded_behind(select(aligned.tokens[second], there))
        steps = {
            name: normalize(self.projections[name](tokens.features), dim=-1)
            for name, tokens in ((first, ours), (second, theirs))
        }
        cost = 1 - steps[first] @ steps[second].transpose(1, 2)  # (pairs, steps, steps)
        lengths = ours.mask.sum(1), theirs.mask.sum(1)
        value = soft_dtw(cost, *lengths, gamma=self.gamma) / (lengths[0] + lengths[1]).clamp(min=1)
        return {f"temporal_{first}_{second}": global_mean(value.sum(), len(value))}


def padded_behind(tokens: Tokens) -> Tokens:
    """Return the same tokens in their order, with all padding behind those that are real."""
    order = (~tokens.mask).long().argsort(dim=1, stable=True)  # (rows, tokens)
    features = tokens.features.gather(1, order.unsqueeze(2).expand_as(tokens.features))
    return Tokens(features, tokens.mask.gather(1, order))

"""Late fusion: each modality comes to a verdict of its own, and the verdicts are averaged."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules.fusion.fusion import Fusion, one_token
from modules.projections import Projection
from modules.tokens import Tokens


class LateFusion(Fusion):
    """The mean, over the modalities that a sample has, of what a network for each modality says by itself.

    With class logits as verdicts this is the normalised geometric mean of the modalities' distributions. Quality weighs
    the mean. Weights: those of the mean, equal unless a quality is given.

    Args:
        widths: modality -> width of its tokens.
        dim: width of a verdict, such as the number of classes.
        hidden: width of each network's hidden layer.
    """

    def __init__(self, widths: dict[str, int], dim: int, hidden: int = 256) -> None:
        super().__init__(widths, dim)
        self.hidden = hidden
        self.networks = nn.ModuleDict(
            {
                name: nn.Sequential(Projection(width, hidden), nn.GELU(), nn.Linear(hidden, dim))
                for name, width in self.widths.items()
            }
        )

    def init_args(self) -> dict[str, Any]:
        return {**super().init_args(), "hidden": self.hidden}

    def fuse(self, tokens: Mapping[str, Tokens], quality: Tensor) -> tuple[Tokens, Tensor]:
        verdicts = torch.stack([self.networks[name](tokens[name]) for name in self.modalities], 1)
        total = quality.sum(1, keepdim=True)
        weights = quality / torch.where(total > 0, total, 1)
        return one_token((weights.unsqueeze(-1) * verdicts).sum(1), quality), weights

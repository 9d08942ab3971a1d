"""Concat fusion: one vector a modality, side by side, through one linear map."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modules.fusion.fusion import Fusion, one_token
from modules.projections import Projection
from modules.tokens import Tokens


class ConcatFusion(Fusion):
    """Concatenation of pooled vectors, mapped to `dim`; an absent modality stands as zeros.

    The map is kept as one matrix a modality, whose products are added: the same as one matrix over the concatenation.
    Quality scales a vector. Weights: the lengths of what each modality adds to the sum.
    """

    def __init__(self, widths: dict[str, int], dim: int) -> None:
        super().__init__(widths, dim)
        self.projections = nn.ModuleDict(
            {name: Projection(width, dim) for name, width in self.widths.items()}
        )
        self.bias = nn.Parameter(torch.zeros(dim))

    def fuse(self, tokens: Mapping[str, Tokens], quality: Tensor) -> tuple[Tokens, Tensor]:
        vectors = torch.stack([self.projections[name](tokens[name]) for name in self.modalities], 1)
        vectors = vectors * quality.unsqueeze(-1)  # (size, modalities, dim)
        return one_token(vectors.sum(1) + self.bias, quality), vectors.detach().norm(dim=-1)

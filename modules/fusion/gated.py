"""Gated fusion: which modality counts in which feature is decided by all of them together."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modules.fusion.fusion import Fusion, one_token
from modules.projections import Projection
from modules.tokens import Tokens


class GatedFusion(Fusion):
    """Gated Multimodal Unit (GMU, arXiv:1702.01992, section 3.1): the sum over m of z_m ⊙ tanh(W_m x_m).

    For two modalities it is the paper's bimodal unit, z and 1 - z with z = σ(W [x_1, x_2]). For more, the gates of a
    feature are a softmax over the modalities present, where the paper takes independent sigmoids: so they always add
    up to one, and a modality that is absent leaves its share to the others. The gates see W_m x_m in place of x_m.
    Quality multiplies a gate before the softmax is normalised. Weights: a modality's gates, averaged over features.
    """

    def __init__(self, widths: dict[str, int], dim: int) -> None:
        super().__init__(widths, dim)
        self.projections = nn.ModuleDict(
            {name: Projection(width, dim) for name, width in self.widths.items()}
        )
        self.gate = nn.Linear(len(self.widths) * dim, len(self.widths) * dim)

    def fuse(self, tokens: Mapping[str, Tokens], quality: Tensor) -> tuple[Tokens, Tensor]:
        vectors = torch.stack([self.projections[name](tokens[name]) for name in self.modalities], 1)
        seen = (vectors * quality.unsqueeze(-1)).flatten(1)  # (size, modalities x dim)
        logits = self.gate(seen).reshape(vectors.shape)
        # Finite where absent: softmax would make NaN of a sample that has no modality.
        log = quality.clamp(min=torch.finfo(quality.dtype).tiny).log().masked_fill(quality == 0, -1e4)
        gates = (logits + log.unsqueeze(-1)).softmax(1) * (quality > 0).unsqueeze(-1)
        return one_token((gates * vectors.tanh()).sum(1), quality), gates.mean(-1)

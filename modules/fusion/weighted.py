"""Weighted fusion: a weighted mean of one vector a modality, with weights that are fixed or learned."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules.fusion.fusion import Fusion, one_token
from modules.projections import Projection
from modules.tokens import Tokens


class WeightedFusion(Fusion):
    """The sum of λ_m v_m over the modalities m that a sample has, divided by the sum of their λ_m.

    For two modalities with λ and 1 - λ, both present, that is λ a + (1 - λ) b. Quality multiplies λ. Weights: λ_m
    divided by that sum.

    Args:
        widths: modality -> width of its tokens.
        dim: width of the vectors.
        lambdas: modality -> fixed λ, above 0; learned, from equal ones, where none are given.

    Raises:
        ValueError: when `lambdas` names other modalities than `widths`, or one is not above 0.
    """

    lambdas: Tensor

    def __init__(self, widths: dict[str, int], dim: int, lambdas: dict[str, float] | None = None) -> None:
        super().__init__(widths, dim)
        self.fixed = None if lambdas is None else dict(sorted(lambdas.items()))
        self.projections = nn.ModuleDict(
            {name: Projection(width, dim) for name, width in self.widths.items()}
        )
        if self.fixed is None:
            self.logits = nn.Parameter(torch.zeros(len(self.widths)))  # λ is their softmax
            return
        if set(self.fixed) != set(self.widths):
            raise ValueError(
                f"lambdas names {', '.join(self.fixed) or 'none'}, the modalities are {', '.join(self.widths)}: "
                "give one λ for each"
            )
        wrong = {name: value for name, value in self.fixed.items() if not 0 < value < float("inf")}
        if wrong:
            raise ValueError(f"lambdas must be above 0, found {wrong}; leave such a modality out of `widths`")
        self.register_buffer("lambdas", torch.tensor([float(value) for value in self.fixed.values()]))

    def init_args(self) -> dict[str, Any]:
        return {**super().init_args(), "lambdas": self.fixed}

    def fuse(self, tokens: Mapping[str, Tokens], quality: Tensor) -> tuple[Tokens, Tensor]:
        vectors = torch.stack([self.projections[name](tokens[name]) for name in self.modalities], 1)
        lambdas = self.lambdas if self.fixed is not None else self.logits.softmax(0)
        weights = lambdas * quality  # (size, modalities)
        total = weights.sum(1, keepdim=True)
        weights = weights / torch.where(total > 0, total, 1)
        return one_token((weights.unsqueeze(-1) * vectors).sum(1), quality), weights

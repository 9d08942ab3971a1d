"""Projections: one pooled vector a row, brought to the width that all modalities share."""

from typing import Any

import torch
from torch import Tensor, nn

from modules.connector import Connector
from modules.parts import Part
from modules.tokens import Tokens


class Projection(Part):
    """Tokens to one vector a row by a learned query that attends over the real tokens, then a linear map.

    A row whose tokens are all padding gives the projection of zeros, never NaN.

    Args:
        in_dim: width of the tokens.
        out_dim: width that all modalities share.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out_dim
        self.norm = nn.LayerNorm(in_dim)
        self.query = nn.Parameter(torch.zeros(in_dim))
        self.linear = nn.Linear(in_dim, out_dim, bias=False)

    def init_args(self) -> dict[str, Any]:
        return {"in_dim": self.in_dim, "out_dim": self.out_dim}

    def attention(self, tokens: Tokens) -> Tensor:
        """Return how much each token counts: (rows, tokens), sums to one over real tokens."""
        scores = self.norm(tokens.features) @ self.query / self.in_dim**0.5
        return (
            torch.softmax(scores.masked_fill(~tokens.mask, torch.finfo(scores.dtype).min), dim=1)
            * tokens.mask
        )

    def forward(self, tokens: Tokens) -> Tensor:
        """Return vectors (rows, out_dim)."""
        pooled = (self.attention(tokens).unsqueeze(-1) * self.norm(tokens.features)).sum(1)
        return self.linear(pooled)


class Projector(Connector):
    """Tokens of an encoder to tokens of a language model: groups of neighbours, then a two-layer perceptron.

    LLaVA-1.5's projector (arXiv:2310.03744, section 3.2) with neighbours joined first, so that a second of
    sound does not cost as much context as a page of text.

    Args:
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model's embeddings.
        group: neighbouring tokens that become one.
    """

    group: int

    def __init__(self, in_dim: int, out_dim: int, group: int = 1) -> None:
        super().__init__()
        self.in_dim, self.out_dim, self.group = in_dim, out_dim, group
        self.norm = nn.LayerNorm(in_dim)
        self.perceptron = nn.Sequential(
            nn.Linear(in_dim * group, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim)
        )

    def init_args(self) -> dict[str, Any]:
        return {"in_dim": self.in_dim, "out_dim": self.out_dim, "group": self.group}

    def forward(self, tokens: Tokens) -> Tokens:
        """Return Tokens (rows, tokens / group, out_dim); a group with one real token is real."""
        rows, count, _ = tokens.features.shape
        padding = -count % self.group
        features = self.norm(tokens.features) * tokens.mask.unsqueeze(-1)
        features = nn.functional.pad(features, (0, 0, 0, padding))
        mask = nn.functional.pad(tokens.mask, (0, padding))
        groups = (count + padding) // self.group
        features = features.reshape(rows, groups, self.in_dim * self.group)
        return Tokens(self.perceptron(features), mask.reshape(rows, groups, self.group).any(2))


def as_projection(part: Part, modality: str, *, in_dim: int, out_dim: int) -> Projection:
    """Return the part itself when it is a projection from an encoder's width to that of the shared space.

    Raises:
        ValueError: when it is another kind of part, or was made for other widths.
    """
    if not isinstance(part, Projection):
        raise ValueError(
            f"the projection of {modality} was given a {type(part).__name__}, expected a Projection: "
            f"name the folder of a part that is called projections.{modality}"
        )
    if (part.in_dim, part.out_dim) != (in_dim, out_dim):
        raise ValueError(
            f"the projection of {modality} goes from {part.in_dim} to {part.out_dim}, expected from {in_dim} (its "
            f"encoder) to {out_dim}: take both from one run, or leave the projection out to start a new one"
        )
    return part

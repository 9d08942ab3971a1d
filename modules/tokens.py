"""Tokens: what every encoder returns and everything behind an encoder speaks."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """A sequence of features per row, with what is real and what is padding told apart.

    Args:
        features: (rows, tokens, dim), float.
        mask: (rows, tokens), bool; True where a token is real.

    Raises:
        ValueError: when the two disagree in rows or tokens.
    """

    features: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        if self.features.shape[:2] != self.mask.shape:
            raise ValueError(
                f"features {tuple(self.features.shape)} and mask {tuple(self.mask.shape)} disagree: "
                "expected (rows, tokens, dim) and (rows, tokens)"
            )

    def pooled(self) -> Tensor:
        """Average the real tokens of each row: (rows, dim). A row without tokens gives zeros."""
        weights = self.mask.unsqueeze(-1).to(self.features.dtype)  # (rows, tokens, 1)
        return (self.features * weights).sum(1) / weights.sum(1).clamp(min=1)

    def __len__(self) -> int:
        return len(self.features)


def full(features: Tensor) -> Tokens:
    """Wrap features (rows, tokens, dim) of which none is padding."""
    return Tokens(features, torch.ones(features.shape[:2], dtype=torch.bool, device=features.device))

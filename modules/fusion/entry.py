"""Entries: the tokens of all modalities brought to one width, told apart by kind, and joined to one sequence."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modules.fusion.fusion import log_weight
from modules.tokens import Tokens


class Joined(NamedTuple):
    """The tokens of all modalities as one sequence.

    features: (size, tokens, dim); mask: (size, tokens), bool; bias: (size, tokens), the log of each token's weight and
    -inf where it is not real; lengths: how many of the tokens are each modality's, in the order of columns.
    """

    features: Tensor
    mask: Tensor
    bias: Tensor
    lengths: list[int]

    def shares(self, attention: Tensor) -> Tensor:
        """Add up what the tokens of each modality were given: (size, tokens) to (size, modalities)."""
        return torch.stack([each.sum(1) for each in attention.split(self.lengths, 1)], 1)


class Entries(nn.Module):
    """For each modality a LayerNorm, a linear map, a learned scale, and an embedding of its kind (modality type).

    Args:
        widths: modality -> width of its tokens, in the order of columns.
        dim: width that all get.
    """

    def __init__(self, widths: Mapping[str, int], dim: int) -> None:
        super().__init__()
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name, width in widths.items()})
        self.linears = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in widths.items()})
        self.scale = nn.Parameter(torch.ones(len(widths)))
        self.kind = nn.Parameter(0.02 * torch.randn(len(widths), dim))

    def forward(self, tokens: Mapping[str, Tokens], quality: Tensor) -> Joined:
        """Join Tokens (size, tokens, width) of every modality.

        Args:
            tokens: by modality.
            quality: (size, modalities), the weight of each modality's tokens.
        """
        features, masks, biases, lengths = [], [], [], []
        for column, (name, norm) in enumerate(self.norms.items()):
            here = tokens[name]
            features.append(self.scale[column] * self.linears[name](norm(here.features)) + self.kind[column])
            masks.append(here.mask)
            biases.append(log_weight(here.mask, quality[:, column]))
            lengths.append(here.mask.shape[1])
        return Joined(torch.cat(features, 1), torch.cat(masks, 1), torch.cat(biases, 1), lengths)

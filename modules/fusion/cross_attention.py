"""Cross-attention fusion: a tower for each modality, which looks at the towers of the others."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from modules.attention import Attention, feed_forward
from modules.fusion.entry import Entries
from modules.fusion.fusion import Fusion
from modules.tokens import Tokens


class CrossAttentionFusion(Fusion):
    """Co-attention of two towers as in ViLBERT (arXiv:1908.02265, section 2.1), for two modalities or more.

    In every layer the tokens of a modality attend to those of all others, as these left the layer before, then go
    through a perceptron; each modality has weights of its own. Differs in that norms stand before and that there is no
    self-attention between, which the encoders have had. A modality that is alone in its sample keeps its tokens and
    the perceptrons. The towers' tokens come out side by side. Quality weighs tokens as keys. Weights: how much a
    modality is looked at by the others in the last layer.

    Args:
        widths: modality -> width of its tokens.
        dim: width of the towers.
        num_layers: their depth.
        num_heads: attention heads.

    Raises:
        ValueError: when `dim` does not divide into the heads, or there is no layer, or one modality alone.
    """

    least = 2
    num_leading = 0

    def __init__(self, widths: dict[str, int], dim: int, num_layers: int = 2, num_heads: int = 8) -> None:
        super().__init__(widths, dim)
        if num_layers < 1:
            raise ValueError(f"num_layers is {num_layers}, expected 1 or more")
        self.num_layers, self.num_heads = num_layers, num_heads
        self.entries = Entries(self.widths, dim)
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: _Tower(dim, num_heads) for name in self.widths}) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def init_args(self) -> dict[str, Any]:
        return {**super().init_args(), "num_layers": self.num_layers, "num_heads": self.num_heads}

    def fuse(self, tokens: Mapping[str, Tokens], quality: Tensor) -> tuple[Tokens, Tensor]:
        joined = self.entries(tokens, quality)
        states = joined.features.split(joined.lengths, 1)
        masks, biases = joined.mask.split(joined.lengths, 1), joined.bias.split(joined.lengths, 1)
        shares = torch.zeros_like(quality)
        for layer in self.layers:
            towers = list(cast(nn.ModuleDict, layer).values())
            seen = [_without(states, column) for column in range(len(towers))]
            bias = [_without(biases, column).unsqueeze(1) for column in range(len(towers))]
            if layer is self.layers[-1]:
                looks = [
                    _mean(cast("_Tower", tower).look(*given), mask)
                    for tower, mask, *given in zip(towers, masks, states, seen, bias, strict=True)
                ]
                shares = _received(looks, joined.lengths)
            states = tuple(tower(*given) for tower, *given in zip(towers, states, seen, bias, strict=True))
        return Tokens(self.norm(torch.cat(states, 1)), joined.mask), shares


class _Tower(nn.Module):
    """One layer of one modality: attention to the others, then a perceptron."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm, self.norm_context = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, dim, num_heads)
        self.perceptron = feed_forward(dim)

    def forward(self, own: Tensor, others: Tensor, bias: Tensor) -> Tensor:
        own = own + self.attention(self.norm(own), self.norm_context(others), bias)
        return own + self.perceptron(own)

    def look(self, own: Tensor, others: Tensor, bias: Tensor) -> Tensor:
        return self.attention.look(self.norm(own), self.norm_context(others), bias)


def _mean(looks: Tensor, mask: Tensor) -> Tensor:
    """Average (size, queries, keys) over real queries: (size, keys)."""
    weights = mask.to(looks.dtype).unsqueeze(-1)
    return (looks * weights).sum(1) / weights.sum(1).clamp(min=1)


def _without(pieces: Sequence[Tensor], column: int) -> Tensor:
    """Join the pieces of all modalities but one along the tokens."""
    return torch.cat([piece for number, piece in enumerate(pieces) if number != column], 1)


def _received(looks: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
    """Add up how much each modality is looked at: (size, modalities).

    Args:
        looks: for each modality (size, tokens of the others).
        lengths: tokens of each modality.
    """
    received = [looks[0].new_zeros(len(looks[0])) for _ in lengths]
    for column, look in enumerate(looks):
        others = [number for number in range(len(lengths)) if number != column]
        for number, piece in zip(others, look.split([lengths[number] for number in others], 1), strict=True):
            received[number] = received[number] + piece.sum(1)
    return torch.stack(received, 1)

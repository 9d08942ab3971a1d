"""Early fusion: the tokens of all modalities in one sequence, through one transformer."""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from modules.fusion.entry import Entries, Joined
from modules.fusion.fusion import Fusion
from modules.tokens import Tokens


class EarlyFusion(Fusion):
    """The tokens of all modalities, normed, scaled and told apart by kind, through torch's transformer encoder.

    A learned summary token stands before them: the first token that comes out. Encoders have put positions into their
    tokens already; none are added. Quality weighs a modality's tokens as keys of attention. Weights: how much the
    summary looks at each modality in the last layer, the mean of all heads.

    Args:
        widths: modality -> width of its tokens.
        dim: width of the transformer.
        num_layers: its depth.
        num_heads: its attention heads.

    Raises:
        ValueError: when `dim` does not divide into the heads, or there is no layer.
    """

    num_leading = 1

    def __init__(self, widths: dict[str, int], dim: int, num_layers: int = 2, num_heads: int = 8) -> None:
        super().__init__(widths, dim)
        if num_layers < 1 or num_heads < 1 or dim % num_heads:
            raise ValueError(
                f"{num_layers} layers, {num_heads} heads, a width of {dim}: expected one layer or more, and a width "
                "that divides into the heads"
            )
        self.num_layers, self.num_heads = num_layers, num_heads
        self.entries = Entries(self.widths, dim)
        self.summary = nn.Parameter(0.02 * torch.randn(dim))
        # GELU by tanh also keeps torch off its fused inference kernel, which reads a weight of keys as "hide it".
        layer = nn.TransformerEncoderLayer(
            dim,
            num_heads,
            4 * dim,
            dropout=0.0,
            activation=partial(nn.functional.gelu, approximate="tanh"),
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        for parameter in self.encoder.parameters():
            if parameter.dim() > 1:  # TransformerEncoder copies one layer: draw each anew
                nn.init.xavier_uniform_(parameter)
        self.norm = nn.LayerNorm(dim)

    def init_args(self) -> dict[str, Any]:
        return {**super().init_args(), "num_layers": self.num_layers, "num_heads": self.num_heads}

    def fuse(self, tokens: Mapping[str, Tokens], quality: Tensor) -> tuple[Tokens, Tensor]:
        joined = self.entries(tokens, quality)
        summary = self.summary.expand(len(quality), 1, -1)
        sequence = torch.cat([summary.to(joined.features.dtype), joined.features], 1)
        bias = nn.functional.pad(joined.bias, (1, 0), value=0.0).to(sequence.dtype)
        *before, last = self.encoder.layers
        for layer in before:
            sequence = layer(sequence, src_key_padding_mask=bias)
        shares = self._look(cast(nn.TransformerEncoderLayer, last), sequence, bias, joined)
        sequence = self.norm(last(sequence, src_key_padding_mask=bias))
        mask = torch.cat([(quality > 0).any(1, keepdim=True), joined.mask], 1)
        return Tokens(sequence, mask), shares

    @torch.no_grad()
    def _look(
        self, layer: nn.TransformerEncoderLayer, sequence: Tensor, bias: Tensor, joined: Joined
    ) -> Tensor:
        normed = layer.norm1(sequence)
        _, weights = layer.self_attn(normed[:, :1], normed, normed, key_padding_mask=bias)
        return joined.shares(weights[:, 0, 1:])

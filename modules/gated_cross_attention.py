"""Gated cross-attention: a layer that lets a language model look at media, and begins as if it were not there."""

from typing import Any

import torch
from torch import Tensor, nn

from modules.attention import Attention, feed_forward
from modules.parts import Part
from modules.tokens import Tokens


class GatedCrossAttention(Part):
    """Flamingo's gated xattn-dense layer (arXiv:2204.14198, section 2.2, figure 4), aware of which medium is meant.

    y + tanh(a) attention(y, media), then y + tanh(b) perceptron(y), with a = b = 0 at first: a language model between
    whose layers it is put says what it said before. A token looks at one medium, the last one before it; a token
    before the first medium looks at none, and its attention is zero.

    Args:
        dim: width of the text.
        media_dim: width of the media's tokens.
        num_heads: attention heads.

    Raises:
        ValueError: when `dim` does not divide into the heads.
    """

    def __init__(self, dim: int, media_dim: int, num_heads: int = 8) -> None:
        super().__init__()
        self.dim, self.media_dim, self.num_heads = dim, media_dim, num_heads
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, media_dim, num_heads)
        self.perceptron = feed_forward(dim)
        self.attention_gate, self.perceptron_gate = (
            nn.Parameter(torch.zeros(())),
            nn.Parameter(torch.zeros(())),
        )

    def init_args(self) -> dict[str, Any]:
        return {"dim": self.dim, "media_dim": self.media_dim, "num_heads": self.num_heads}

    def forward(self, text: Tokens, media: Tokens, owner: Tensor, seen: Tensor) -> Tokens:
        """Return the text, (rows, tokens, dim), having looked at the media.

        Args:
            text: (rows, tokens, dim).
            media: (rows, media tokens, media_dim): the tokens of all the media of a row, of whatever modalities.
            owner: (rows, media tokens), int64: which medium of its row a token is of, from 0.
            seen: (rows, tokens), int64: which medium a token of the text looks at, -1 for none; see `last_medium`.

        Raises:
            ValueError: when a width or a shape does not match.
        """
        widths = (text.features.shape[2], media.features.shape[2])
        if widths != (self.dim, self.media_dim):
            raise ValueError(
                f"text {widths[0]} and media {widths[1]} wide, the layer was built for {self.dim} and {self.media_dim}"
            )
        if owner.shape != media.mask.shape or seen.shape != text.mask.shape:
            raise ValueError(
                f"owner {tuple(owner.shape)} and seen {tuple(seen.shape)}, expected one number for each token: "
                f"{tuple(media.mask.shape)} and {tuple(text.mask.shape)}"
            )
        meant = (owner.unsqueeze(1) == seen.unsqueeze(2)) & media.mask.unsqueeze(
            1
        )  # (rows, tokens, media tokens)
        bias = torch.zeros_like(meant, dtype=text.features.dtype).masked_fill(~meant, -torch.inf)
        context = media.features.masked_fill(~media.mask.unsqueeze(-1), 0)
        features = text.features
        looked = self.attention(self.norm(features), context, bias)
        features = features + self.attention_gate.tanh() * looked
        return Tokens(features + self.perceptron_gate.tanh() * self.perceptron(features), text.mask)


def last_medium(marks: Tensor) -> Tensor:
    """Return for each token the number of the last medium up to it, -1 before the first: (rows, tokens), int64.

    Args:
        marks: (rows, tokens), bool; True where a medium stands in the text.
    """
    return marks.long().cumsum(1) - 1

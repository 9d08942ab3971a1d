"""Perceiver Resampler: any number of tokens to a fixed, small number."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from modules.attention import Attention, feed_forward
from modules.connector import Connector
from modules.tokens import Tokens


class PerceiverResampler(Connector):
    """Flamingo's Perceiver Resampler (arXiv:2204.14198, section 2.1, figure 5): learned latents attend to tokens.

    In every layer the latents are queries, and keys and values are the tokens and the latents together. Differs in that
    no time embeddings are added: encoders have put positions into their tokens. A row without a real token has none
    afterwards.

    Args:
        in_dim: width of the tokens.
        dim: width of the latents, to which tokens are mapped first.
        num_latents: tokens that come out.
        num_layers: depth.
        num_heads: attention heads.

    Raises:
        ValueError: when `dim` does not divide into the heads, or there is no latent or layer.
    """

    def __init__(
        self, in_dim: int, dim: int, num_latents: int = 64, num_layers: int = 2, num_heads: int = 8
    ) -> None:
        super().__init__()
        if num_latents < 1 or num_layers < 1:
            raise ValueError(f"{num_latents} latents and {num_layers} layers: expected one or more of each")
        self.in_dim, self.dim, self.num_latents = in_dim, dim, num_latents
        self.out_dim = dim
        self.num_layers, self.num_heads = num_layers, num_heads
        self.linear = nn.Linear(in_dim, dim)
        self.latents = nn.Parameter(0.02 * torch.randn(num_latents, dim))
        self.layers = nn.ModuleList(_Layer(dim, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)

    def init_args(self) -> dict[str, Any]:
        names = ("in_dim", "dim", "num_latents", "num_layers", "num_heads")
        return {name: self.__dict__[name] for name in names}

    def forward(self, tokens: Tokens) -> Tokens:
        """Return Tokens (rows, num_latents, dim); zero rows are as good as any other number.

        Raises:
            ValueError: when the tokens have another width than `in_dim`.
        """
        if tokens.features.shape[2] != self.in_dim:
            raise ValueError(
                f"the resampler was given tokens {tokens.features.shape[2]} wide, it was built for {self.in_dim}: "
                "set in_dim to the encoder's dim"
            )
        bias = torch.zeros_like(tokens.mask, dtype=tokens.features.dtype).masked_fill(
            ~tokens.mask, -torch.inf
        )
        return self.resample(tokens, bias)[0]

    def resample(self, tokens: Tokens, bias: Tensor) -> tuple[Tokens, Tensor]:
        """Return Tokens (rows, num_latents, dim), and how much the last layer's latents look at each token.

        Args:
            tokens: (rows, tokens, in_dim).
            bias: (rows, tokens), the log of each token's weight, -inf where it is not real.

        Returns:
            The second, (rows, tokens), is the mean over latents and heads, without gradient; what the latents
            look at each other is left out of it.
        """
        media = self.linear(tokens.features.masked_fill(~tokens.mask.unsqueeze(-1), 0))
        latents = self.latents.expand(len(media), -1, -1).to(media.dtype)
        bias = nn.functional.pad(bias, (0, self.num_latents)).unsqueeze(1)  # (rows, 1, tokens + latents)
        looks = bias
        for layer in self.layers:
            if layer is self.layers[-1]:
                looks = cast("_Layer", layer).look(media, latents, bias)
            latents = layer(media, latents, bias)
        real = tokens.mask.any(1, keepdim=True).expand(-1, self.num_latents)
        features = self.norm(latents).masked_fill(~real.unsqueeze(-1), 0)
        return Tokens(features, real), looks.mean(1)[:, : -self.num_latents]


class _Layer(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm_media, self.norm_latents = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, dim, num_heads)
        self.perceptron = feed_forward(dim)

    def forward(self, media: Tensor, latents: Tensor, bias: Tensor) -> Tensor:
        latents = latents + self.attention(*self._normed(media, latents), bias)
        return latents + self.perceptron(latents)

    def look(self, media: Tensor, latents: Tensor, bias: Tensor) -> Tensor:
        return self.attention.look(*self._normed(media, latents), bias)

    def _normed(self, media: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        queries = self.norm_latents(latents)
        return queries, torch.cat([self.norm_media(media), queries], 1)

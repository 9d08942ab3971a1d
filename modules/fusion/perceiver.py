"""Perceiver fusion: learned latents that look at the tokens of all modalities."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modules.fusion.entry import Entries
from modules.fusion.fusion import Fusion
from modules.resampler import PerceiverResampler
from modules.tokens import Tokens


class PerceiverFusion(Fusion):
    """A Perceiver Resampler (arXiv:2204.14198) over the joined tokens of all modalities: as many tokens as latents.

    What it costs grows with the number of tokens, not with its square. Quality weighs a modality's tokens as keys.
    Weights: how much the latents look at each modality in the last layer, the mean of all heads and latents.

    Args:
        widths: modality -> width of its tokens.
        dim: width of the latents.
        num_latents: tokens that come out.
        num_layers: depth.
        num_heads: attention heads.

    Raises:
        ValueError: when `dim` does not divide into the heads, or there is no latent or layer.
    """

    def __init__(
        self,
        widths: dict[str, int],
        dim: int,
        num_latents: int = 16,
        num_layers: int = 2,
        num_heads: int = 8,
    ) -> None:
        super().__init__(widths, dim)
        self.entries = Entries(self.widths, dim)
        self.resampler = PerceiverResampler(dim, dim, num_latents, num_layers, num_heads)

    def init_args(self) -> dict[str, Any]:
        inner = self.resampler.init_args()
        return {**super().init_args(), **{name: inner[name] for name in inner if name.startswith("num_")}}

    def fuse(self, tokens: Mapping[str, Tokens], quality: Tensor) -> tuple[Tokens, Tensor]:
        joined = self.entries(tokens, quality)
        resampled, looks = self.resampler.resample(Tokens(joined.features, joined.mask), joined.bias)
        return resampled, joined.shares(looks)

"""Latent fusion: a variational autoencoder for each modality, whose posteriors are multiplied."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modules.fusion.fusion import Fusion, one_token
from modules.projections import Projection
from modules.tokens import Tokens


class Gaussian(NamedTuple):
    """Independent normal distributions: mean (rows, dim) and log_variance (rows, dim)."""

    mean: Tensor
    log_variance: Tensor


class LatentFusion(Fusion):
    """The mean of a product of Gaussian experts, one a modality present, and the prior N(0, 1).

    MVAE (arXiv:1802.05335, section 2.2): precisions add up, and a mean counts by its precision, so that any pattern of
    presence has its posterior; that of a sample without any modality is the prior, of mean 0. The VAEs see a modality's
    tokens pooled, and draw this pooled vector again. They are trained by `objectives.latent_alignment`, or by
    whatever comes after the fusion, which leaves the decoders without a gradient. Quality multiplies a precision.
    Weights: the share of a modality in the precision of all, averaged over features.

    Args:
        widths: modality -> width of its tokens.
        dim: width of the latent space.
        hidden: width of the hidden layers of the VAEs' encoders and decoders.
    """

    def __init__(self, widths: dict[str, int], dim: int, hidden: int = 256) -> None:
        super().__init__(widths, dim)
        self.hidden = hidden
        self.encoders = nn.ModuleDict(
            {
                name: nn.Sequential(Projection(width, hidden), nn.GELU(), nn.Linear(hidden, 2 * dim))
                for name, width in self.widths.items()
            }
        )
        self.decoders = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, width))
                for name, width in self.widths.items()
            }
        )

    def init_args(self) -> dict[str, Any]:
        return {**super().init_args(), "hidden": self.hidden}

    def posterior(self, name: str, tokens: Tokens) -> Gaussian:
        """Return what one modality says about the latent of each of its rows."""
        mean, log_variance = self.encoders[name](tokens).chunk(2, -1)
        return Gaussian(mean, log_variance.clamp(-10, 10))  # beyond, exp leaves half precision

    def decode(self, name: str, latent: Tensor) -> Tensor:
        """Return the pooled vector (rows, width) of one modality that a latent (rows, dim) stands for."""
        return self.decoders[name](latent)

    def fuse(self, tokens: Mapping[str, Tokens], quality: Tensor) -> tuple[Tokens, Tensor]:
        experts = [self.posterior(name, tokens[name]) for name in self.modalities]
        precision = torch.stack([(-expert.log_variance).exp() for expert in experts], 1)
        precision = precision * quality.unsqueeze(-1)  # (size, modalities, dim)
        share = precision / (1 + precision.sum(1, keepdim=True))  # 1 is the prior's
        means = torch.stack([expert.mean for expert in experts], 1)
        return one_token((share * means).sum(1), quality), share.mean(-1)

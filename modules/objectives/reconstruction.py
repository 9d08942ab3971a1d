"""Reconstruction: a picture is drawn again from its symbols alone, which is how an image tokenizer is trained."""

from collections.abc import Mapping

import torch
from torch import Tensor

from modules.collectives import global_mean
from modules.encoders.encoder import Encoder
from modules.encoders.image_tokenizer import ImageTokenizer
from modules.objectives.pretraining import PretrainingObjective
from modules.tokens import Tokens


class Reconstruction(PretrainingObjective):
    """VQ-VAE's reconstruction term (arXiv:1711.00937, eq. 3), the mean squared error of pixels from -1 to 1.

    The codebook and commitment terms fall away: FSQ (arXiv:2309.15505) learns no codebook. Scores are the
    signal-to-noise ratio in decibels (`psnr_db`), the share of the codebook that the batch used (`codes_used`), and
    the perplexity of that use (`code_perplexity`), by which one would see a codebook collapse.

    Args:
        encoder: its own decoder draws.

    Raises:
        ValueError: when the encoder is another kind.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        if not isinstance(encoder, ImageTokenizer):
            raise ValueError(
                "reconstruction trains modules.encoders.image_tokenizer.ImageTokenizer, not "
                f"{type(encoder).__name__}, which draws no pictures"
            )
        self.tokenizer = [encoder]  # in a list: it is the stage's

    def corrupt(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Hide nothing; the target is the pictures themselves (rows, 3, height, width), from -1 to 1."""
        return dict(inputs), inputs["pixels"].float() / 127.5 - 1

    def forward(self, tokens: Tokens, target: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Judge what is drawn from the tokens."""
        tokenizer = self.tokenizer[0]
        errors = (tokenizer.draw(tokens.features).float() - target).square().mean((1, 2, 3))  # (rows,)
        loss = global_mean(errors.sum(), len(errors))
        counts = torch.bincount(
            tokenizer.unit_of(tokens.features.detach()).flatten(), minlength=tokenizer.num_units
        )
        shares = counts / counts.sum().clamp(min=1)
        scores = {
            "psnr_db": 10 * torch.log10(4 / loss.detach().clamp(min=1e-10)),
            "codes_used": (counts > 0).float().mean(),
            "code_perplexity": torch.special.entr(shares).sum().exp(),
        }
        return {"reconstruction": loss}, scores

"""Masked image modelling: some patches are hidden, the encoder says what they looked like."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modules.collectives import global_mean
from modules.encoders.encoder import Encoder
from modules.encoders.picture import PictureEncoder
from modules.objectives.draws import Draws
from modules.objectives.pretraining import PretrainingObjective
from modules.tokens import Tokens


class MaskedImage(PretrainingObjective):
    """SimMIM (arXiv:2111.09886, eq. 3 with the L1 distance), against pixels normalised in each patch as MAE's are.

    Differs from SimMIM in that a hidden patch is shown as the mean colour, not as a learned embedding, so
    that any vision model of the library can be trained.

    Args:
        encoder: an image encoder whose tokens are its patches, row by row.
        share: of the patches that are hidden.
        seed: of which ones.

    Raises:
        ValueError: when the encoder is another kind.
    """

    def __init__(self, encoder: PictureEncoder, share: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        check_hides_patches(encoder, "masked image modelling")
        self.patch_size, self.share, self.draws = encoder.patch_size, share, Draws(seed)
        self.decoder = nn.Linear(encoder.dim, 3 * encoder.patch_size**2)

    def corrupt(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Hide patches; the target is every patch (rows, patches, 3 x size x size) and which ones were hidden."""
        size = self.patch_size
        pixels = inputs["pixels"].float() / 255
        patches = nn.functional.unfold(pixels, kernel_size=size, stride=size).transpose(1, 2)
        mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
        hidden = self.draws.uniform(*patches.shape[:2]).to(pixels.device, torch.float32) < self.share
        return {**inputs, "masked": hidden}, ((patches - mean) / (variance + 1e-6).sqrt(), hidden)

    def forward(
        self, tokens: Tokens, target: tuple[Tensor, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Judge the hidden patches alone."""
        patches, hidden = target
        difference = (self.decoder(tokens.features[hidden]) - patches[hidden]).abs()
        return {"masked_image": global_mean(difference.sum(), difference.numel())}, {}


def check_hides_patches(encoder: Encoder, objective: str) -> None:
    """Refuse an encoder that does not hide the patches it is told to: it would see what is asked for.

    Raises:
        ValueError: when it does not.
    """
    if not isinstance(encoder, PictureEncoder):
        raise ValueError(
            f"{objective} hides patches of pictures, which {type(encoder).__name__} cannot: expected a PictureEncoder, "
            "such as modules.encoders.huggingface.ImageEncoder or modules.encoders.timm.TimmEncoder"
        )
    if encoder.grid < 2:
        raise ValueError(
            f"{type(encoder).__name__} makes one token of a picture of {encoder.image_size} pixels: {objective} would "
            "hide all of it or nothing; take larger pictures, or an encoder that does not pool"
        )

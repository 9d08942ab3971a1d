"""Masked autoencoding: three quarters of the patches are left out, a decoder draws them from the rest."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from modules.collectives import global_mean
from modules.encoders.vit_mae import MaskedAutoencoderViT
from modules.objectives.draws import Draws
from modules.objectives.pretraining import PretrainingObjective, never_empty
from modules.tokens import Tokens


class MaskedAutoencoder(PretrainingObjective):
    """MAE (arXiv:2111.06377, section 3): mean squared error on hidden patches' pixels, normalised in each patch.

    The decoder is transformers' ViTMAEDecoder. The encoder sees visible patches alone, which is what makes it
    quicker than `MaskedImage`; that one trains any other vision model.

    Args:
        encoder: its config says which share is hidden.
        decoder_dim: width of the decoder.
        decoder_layers: its depth.
        decoder_heads: its attention heads.
        normalise: pixels in each patch, as MAE's best runs do.

    Raises:
        ValueError: when the encoder is another kind.
    """

    def __init__(
        self,
        encoder: MaskedAutoencoderViT,
        decoder_dim: int = 512,
        decoder_layers: int = 8,
        decoder_heads: int = 16,
        normalise: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        from transformers.models.vit_mae.modeling_vit_mae import ViTMAEDecoder

        if not isinstance(encoder, MaskedAutoencoderViT):
            raise ValueError(
                "masked autoencoding needs modules.encoders.vit_mae.MaskedAutoencoderViT, not "
                f"{type(encoder).__name__}, which modules.objectives.masked_image.MaskedImage can train"
            )
        config = copy.deepcopy(encoder.config)
        config.decoder_hidden_size, config.decoder_intermediate_size = decoder_dim, 4 * decoder_dim
        config.decoder_num_hidden_layers, config.decoder_num_attention_heads = decoder_layers, decoder_heads
        self.num_patches = (config.image_size // config.patch_size) ** 2
        self.num_visible = int(self.num_patches * (1 - config.mask_ratio))
        self.patch_size, self.normalise, self.draws = config.patch_size, normalise, Draws(seed)
        self.encoder = [encoder]  # in a list: it is the stage's
        self.decoder = ViTMAEDecoder(config, self.num_patches)

    def corrupt(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Draw noise; the target is all patches (rows, patches, size x size x 3) and each one's rank in the noise."""
        pixels = inputs["pixels"]
        noise = self.draws.uniform(len(pixels), self.num_patches).to(pixels.device, torch.float32)
        return {**inputs, "noise": noise}, self.target(pixels, noise)

    def target(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return patches (rows, patches, size x size x 3) and the place of each in the order of noise."""
        size = self.patch_size
        patches = self.encoder[0].normalised(pixels).unfold(2, size, size).unfold(3, size, size)
        patches = patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
        if self.normalise:
            mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
            patches = (patches - mean) / (variance + 1e-6).sqrt()
        return patches, noise.argsort(1).argsort(1)

    def forward(
        self, tokens: Tokens, target: tuple[Tensor, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Judge the hidden patches alone.

        Args:
            tokens: class token and visible patches.
            target: of `corrupt`.
        """
        patches, place = target
        rows = len(place)
        drawn = self.decoder(never_empty(tokens.features), never_empty(place)).logits[
            :rows
        ]  # (rows, patches, pixels)
        hidden = place >= self.num_visible
        loss = (drawn - patches)[hidden].float().square().mean(1)
        return {"masked_autoencoder": global_mean(loss.sum(), len(loss))}, {}

"""MaskedAutoencoderViT: the vision transformer of MAE, which can leave hidden patches out instead of masking them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from modules.encoders.encoder import at_least_one_row
from modules.encoders.huggingface import ImageEncoder
from modules.tokens import Tokens, full


class MaskedAutoencoderViT(ImageEncoder):
    """transformers' ViTMAEModel (arXiv:2111.06377): all patches, or the class token and those that noise leaves.

    Args:
        name_or_path: a pretrained model; or
        config: with model_type `vit_mae`; its `mask_ratio` is the share of patches that are hidden.
        image_size: as ImageEncoder's, and so the rest.

    Raises:
        ValueError: when the model is of another type.
    """

    @property
    def config(self) -> Any:
        """The library's config: image and patch size in pixels, the share of patches that are hidden."""
        return self.trunk.config

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode pictures.

        Args:
            inputs: `pixels` (rows, 3, height, width) uint8. With `noise` (rows, patches), the patches of least noise
                are encoded alone, in its order, and stand behind the class token.
        """
        if "noise" not in inputs:
            return super().forward(inputs)
        rows = len(inputs["pixels"])
        inputs = at_least_one_row(inputs)
        pixels = self.normalised(inputs["pixels"])
        return full(self.trunk(pixel_values=pixels, noise=inputs["noise"]).last_hidden_state[:rows])

    def _measure(self) -> None:
        if self.config.model_type != "vit_mae":
            raise ValueError(
                f"MaskedAutoencoderViT is for model_type vit_mae, this is {self.config.model_type}: "
                "use modules.encoders.huggingface.ImageEncoder"
            )
        super()._measure()

    def _features(self, pixels: Tensor) -> Tensor:
        patches = (self.config.image_size // self.config.patch_size) ** 2
        in_order = torch.arange(patches, device=pixels.device).expand(len(pixels), -1)
        with _hiding_nothing(self.config):
            return self.trunk(pixel_values=pixels, noise=in_order).last_hidden_state[:, 1:]


@contextmanager
def _hiding_nothing(config: Any) -> Iterator[None]:
    """Set the share of hidden patches to zero: the library reads it from the config at every forward."""
    share, config.mask_ratio = config.mask_ratio, 0.0
    try:
        yield
    finally:
        config.mask_ratio = share

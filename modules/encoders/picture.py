"""PictureEncoder: what encoders of pictures share, whichever library their trunk is from."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from modules.attention import quick_attention
from modules.encoders.encoder import Encoder, at_least_one_row
from modules.encoders.processor import PictureSettings
from modules.tokens import Tokens, full


class PictureEncoder(Encoder):
    """Pictures (rows, 3, height, width) uint8 to Tokens, one a patch, row by row; normalised on the device.

    A subclass builds the trunk and says in `_features` what it makes of pixels; its constructor ends in `_measure`.

    Args:
        trunk: any module.
        settings: with the size of the pictures.

    Raises:
        ValueError: when no size is known.
    """

    mean: Tensor
    std: Tensor
    grid: int
    """Tokens along each side."""
    num_attended: int = 0
    """Tokens that attention goes over in the trunk; 0 where that is not known."""

    def __init__(self, trunk: nn.Module, settings: PictureSettings) -> None:
        super().__init__()
        if not settings.image_size:
            raise ValueError(f"nothing says the image_size of {type(trunk).__name__}: give it, in pixels")
        self.trunk, self.image_size, self.is_bgr = trunk, settings.image_size, settings.is_bgr
        self._mean, self._std = settings.mean, settings.std  # as numbers, also on the meta device
        self.register_buffer("mean", torch.tensor(settings.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings.std).view(3, 1, 1), persistent=False)

    @property
    def patch_size(self) -> int:
        """Height and width of the patch that one token stands for, in pixels."""
        return self.image_size // self.grid

    @property
    def input_config(self) -> dict[str, Any]:
        size = {"height": self.image_size, "width": self.image_size}
        return {"class_path": "datamodules.modalities.image.Image", "init_args": size}

    def settings(self) -> dict[str, Any]:
        """Return what the constructor of every subclass takes for the settings."""
        return {
            "image_size": self.image_size,
            "mean": [float(value) for value in self._mean],
            "std": [float(value) for value in self._std],
        }

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return uint8 pixels as the trunk sees them."""
        pixels = (pixels.float() / 255 - self.mean) / self.std
        return pixels.flip(1) if self.is_bgr else pixels

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode pictures.

        Args:
            inputs: `pixels` (rows, 3, height, width) uint8, and for masked prediction
                `masked` (rows, patches) bool: patches that the encoder must not see.
        """
        rows = len(inputs["pixels"])
        inputs = at_least_one_row(inputs)
        pixels = self.normalised(inputs["pixels"])
        if "masked" in inputs:
            size = self.patch_size
            masked = inputs["masked"].view(len(pixels), 1, self.grid, self.grid)
            pixels = pixels.masked_fill(masked.repeat_interleave(size, 2).repeat_interleave(size, 3), 0.0)
        with quick_attention(pixels.device, self.num_attended or self.grid**2):
            if not rows:  # the row that nobody keeps must not reach the running statistics of batch norms
                with evaluating(self.trunk):
                    return full(self._features(pixels)[:0])
            return full(self._features(pixels))

    @abstractmethod
    def _features(self, pixels: Tensor) -> Tensor:
        """Return (rows, patches, dim) of normalised pixels."""

    @torch.no_grad()
    def _measure(self) -> None:
        """Learn `grid` and `dim` from a black picture: every family of models says them in its own way.

        Raises:
            ValueError: when the trunk takes no picture of this size, or gives no features.
        """
        with evaluating(self.trunk):
            device = next(self.trunk.parameters()).device
            try:
                features = self._features(torch.zeros(1, 3, self.image_size, self.image_size, device=device))
            except (AssertionError, RuntimeError, ValueError) as error:
                raise ValueError(
                    f"{type(self.trunk).__name__} does not take pictures of {self.image_size} × {self.image_size} "
                    f"pixels: leave image_size out, or build the model for this size ({error})"
                ) from error
        self.grid, self.dim = math.isqrt(features.shape[1]), features.shape[2]


def patches_of(features: Tensor) -> Tensor:
    """Return (rows, patches, dim) of a map (rows, dim, height, width), or of tokens with others before a square."""
    if features.ndim == 4:
        return features.flatten(2).transpose(1, 2)
    patches = math.isqrt(features.shape[1]) ** 2
    return features[:, features.shape[1] - patches :]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Set a module to evaluate, and back."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)

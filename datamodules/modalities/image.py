"""Image: encoded pictures to pixels."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from datamodules.modalities.picture_augmentation import PictureAugmentation
from datamodules.modalities.picture_size import fit
from datamodules.modalities.pictures import read_picture


class Image:
    """Pictures to pixels: shorter side scaled, centre cut. Inputs: `pixels` (rows, 3, height, width) uint8.

    Pixels stay bytes until the model, which normalises them on the device; in memory the channels come last.
    What makes a picture bad is said in docs/bad_input.md, what training alone does in docs/augmentation.md.

    Args:
        height: pixels.
        width: pixels.
        max_pixels: larger pictures are bad samples, and beyond 0.6 of it those that are no JPEG.
        max_aspect: longer side over shorter; beyond it a sample is bad.
        augmentation: options of PictureAugmentation, such as `crop_scale` and `flip`, in training.

    Raises:
        ValueError: when a number makes no sense.
        TypeError: when PictureAugmentation does not know an option.
    """

    members = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")

    def __init__(
        self,
        height: int,
        width: int,
        max_pixels: int = 40_000_000,
        max_aspect: float = 20.0,
        **augmentation: Any,
    ) -> None:
        if min(height, width, max_pixels) < 1 or max_aspect < 1:
            raise ValueError(
                f"image: height {height}, width {width}, max_pixels {max_pixels}, max_aspect {max_aspect}: "
                "expected all to be at least 1"
            )
        self.height, self.width = height, width
        self.max_pixels, self.max_aspect = max_pixels, max_aspect
        self.augmentation = PictureAugmentation(height, width, **augmentation)

    def decode(self, data: bytes, member: str) -> np.ndarray:
        """Return pixels (height, width, 3), uint8; larger ones where training cuts at random before it scales.

        Raises:
            BadSample: when it is not a picture of a known format, damaged, too large or too narrow.
        """
        min_height, min_width = self.augmentation.source_size
        pixels = read_picture(
            data,
            min_height=min_height,
            min_width=min_width,
            max_pixels=self.max_pixels,
            max_aspect=self.max_aspect,
        )
        return pixels if self.augmentation.crops else fit(pixels, self.height, self.width)

    def augment(self, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.augmentation(value, rng)

    def collate(self, values: list[np.ndarray]) -> dict[str, Tensor]:
        """Stack pictures; in a worker, torch does so right in the memory that the main process reads."""
        if not values:
            return {"pixels": torch.zeros(0, 3, self.height, self.width, dtype=torch.uint8)}
        rows = [np.ascontiguousarray(fit(value, self.height, self.width)) for value in values]
        return {"pixels": default_collate([torch.from_numpy(row) for row in rows]).permute(0, 3, 1, 2)}

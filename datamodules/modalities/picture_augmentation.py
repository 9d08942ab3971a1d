"""What training does to pictures, drawn from the generator of the sample alone, so that a resumed run sees the same."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from datamodules.modalities.picture_size import fit, np_view, resize, tensor_view

CROP_TRIES = 10


class PictureAugmentation:
    """Random crop, flip, colour, RandAugment and shift, in this order; each is off unless asked for.

    Args:
        height: of the outcome, pixels.
        width: of the outcome, pixels.
        crop_scale: least and largest share of the picture's area that is kept, such as `[0.9, 1.0]`.
        crop_ratio: least and largest ratio of the crop's width to its height.
        flip: probability of mirroring left and right.
        color_jitter: arguments of torchvision's v2.ColorJitter: `{brightness: 0.4, contrast: 0.4, …}`.
        rand_augment: arguments of torchvision's v2.RandAugment (arXiv:1909.13719): `{num_ops: 2, magnitude: 9}`.
        max_shift: the picture is moved by up to so many pixels each way; its edge fills up.

    Raises:
        ValueError: when a number makes no sense.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        crop_scale: Sequence[float] | None = None,
        crop_ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: float = 0.0,
        color_jitter: dict[str, Any] | None = None,
        rand_augment: dict[str, Any] | None = None,
        max_shift: int = 0,
    ) -> None:
        self.height, self.width, self.flip, self.max_shift = height, width, flip, max_shift
        self.crop_scale = _range("crop_scale", crop_scale, 1.0) if crop_scale is not None else None
        self.crop_ratio = _range("crop_ratio", crop_ratio, math.inf)
        if not 0 <= flip <= 1:
            raise ValueError(f"image: flip is {flip}: expected a probability, from 0 to 1")
        if not 0 <= max_shift <= min(height, width):
            raise ValueError(
                f"image: max_shift is {max_shift}: expected 0 to {min(height, width)} pixels, the picture's size"
            )
        self.transforms = _transforms(color_jitter, rand_augment)

    @property
    def crops(self) -> bool:
        """Whether pictures must come larger than they leave."""
        return self.crop_scale is not None

    @property
    def source_size(self) -> tuple[int, int]:
        """Height and width of a picture whose smallest crop still fills the outcome."""
        factor = 1 / math.sqrt(self.crop_scale[0]) if self.crop_scale else 1.0
        return math.ceil(self.height * factor), math.ceil(self.width * factor)

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return pixels (height, width, 3), uint8.

        Args:
            pixels: (height, width, 3), uint8, of any size.
            rng: of this sample.
        """
        pixels = self._crop(pixels, rng) if self.crop_scale else fit(pixels, self.height, self.width)
        if self.flip and rng.random() < self.flip:
            pixels = np_view(tensor_view(pixels).flip(2))
        if self.transforms:
            with _torch_drawing_from(rng):
                for transform in self.transforms:
                    pixels = np_view(transform(tensor_view(pixels)))
        return self._shift(pixels, rng) if self.max_shift else pixels

    def _crop(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Cut a rectangle as torchvision's RandomResizedCrop draws it, then scale only that."""
        height, width = pixels.shape[:2]
        least, most = (math.log(ratio) for ratio in self.crop_ratio)
        for _ in range(CROP_TRIES):
            area = height * width * rng.uniform(*self.crop_scale)
            ratio = math.exp(rng.uniform(least, most))
            cut_width, cut_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < cut_width <= width and 0 < cut_height <= height:
                top = int(rng.integers(height - cut_height + 1))
                left = int(rng.integers(width - cut_width + 1))
                return resize(
                    pixels[top : top + cut_height, left : left + cut_width], self.height, self.width
                )
        return fit(pixels, self.height, self.width)

    def _shift(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        down, right = rng.integers(-self.max_shift, self.max_shift + 1, 2)
        padded = np.pad(pixels, ((self.max_shift,) * 2, (self.max_shift,) * 2, (0, 0)), mode="edge")
        top, left = self.max_shift + down, self.max_shift + right
        return padded[top : top + self.height, left : left + self.width]


def _transforms(color_jitter: dict[str, Any] | None, rand_augment: dict[str, Any] | None) -> list[nn.Module]:
    from torchvision.transforms import v2

    chosen: list[nn.Module] = []
    try:
        if color_jitter:
            chosen.append(v2.ColorJitter(**color_jitter))
        if rand_augment is not None:
            chosen.append(v2.RandAugment(**rand_augment))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"image: color_jitter {color_jitter}, rand_augment {rand_augment}: {error}"
        ) from error
    if rand_augment is not None:
        strength, bins = chosen[-1].magnitude, chosen[-1].num_magnitude_bins
        if chosen[-1].num_ops < 1 or not 0 <= strength < bins:
            raise ValueError(
                f"image: rand_augment is {rand_augment}: expected num_ops of at least 1 "
                f"and a magnitude from 0 to {bins - 1}"
            )
    return chosen


@contextmanager
def _torch_drawing_from(rng: np.random.Generator) -> Iterator[None]:
    """Let torch's global generator, which torchvision draws from, follow `rng`; afterwards it is as before.

    The generator is seeded itself: `torch.manual_seed` would seed those of all devices with it.
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(int(rng.integers(2**63)))
    try:
        yield
    finally:
        torch.set_rng_state(before)


def _range(name: str, given: Sequence[float], most: float) -> tuple[float, float]:
    if len(given) != 2 or not 0 < given[0] <= given[1] <= most:
        bound = "" if most == math.inf else f", at most {most:g}"
        raise ValueError(f"image: {name} is {list(given)}: expected two rising numbers above 0{bound}")
    return float(given[0]), float(given[1])

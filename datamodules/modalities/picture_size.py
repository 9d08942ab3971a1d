"""Bringing pixels to a size, on bytes and with antialiasing."""

import numpy as np
import torch
from torchvision.transforms.v2 import functional


def fit(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale until both sides are filled, then cut the centre, as torchvision's Resize and CenterCrop do.

    Args:
        pixels: (height, width, 3), uint8.
        height: of the outcome.
        width: of the outcome.
    """
    given_height, given_width = pixels.shape[:2]
    if (given_height, given_width) == (height, width):
        return pixels
    if given_width * height <= given_height * width:  # the width decides
        size = (max(height, given_height * width // given_width), width)
    else:
        size = (height, max(width, given_width * height // given_height))
    scaled = resize(pixels, *size)
    top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
    return scaled[top : top + height, left : left + width]


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale pixels (height, width, 3), uint8, to any other size, bicubic."""
    if pixels.shape[:2] == (height, width):
        return pixels
    whole = tensor_view(np.ascontiguousarray(pixels))  # a view of a part would take half as long again
    mode = functional.InterpolationMode.BICUBIC
    return np_view(functional.resize(whole, [height, width], mode, antialias=True))


def tensor_view(pixels: np.ndarray) -> torch.Tensor:
    """Return pixels (height, width, 3) as a tensor (3, height, width) over the same memory."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def np_view(pixels: torch.Tensor) -> np.ndarray:
    """Return a tensor (3, height, width) as pixels (height, width, 3) over the same memory."""
    return pixels.permute(1, 2, 0).numpy()

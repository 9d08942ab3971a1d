"""Whether drawn pictures are copies: how much of each is found in one picture that was learned from."""

import torch
from torch import Tensor

CHUNK = 50


def nearest_share(units: Tensor, known: Tensor) -> Tensor:
    """Return, for each picture, the largest share of its symbols that one known picture has in the same places.

    Args:
        units: symbols (pictures, places), int64.
        known: those of the pictures learned from (known, places).

    Returns:
        (pictures,), float in [0, 1]; 1 is a copy.
    """
    shares = [
        (chunk[:, None] == known).float().mean(2).amax(1) for chunk in units.split(CHUNK)
    ]  # each (chunk,)
    return torch.cat(shares) if shares else torch.zeros(0)


def middle(units: Tensor, side: int) -> Tensor:
    """Return the symbols (pictures, side²) in the middle of pictures, of all (pictures, grid²) row by row."""
    grid = round(units.shape[1] ** 0.5)
    first = (grid - side) // 2
    square = units.unflatten(1, (grid, grid))
    return square[:, first : first + side, first : first + side].flatten(1)

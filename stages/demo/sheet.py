"""A sheet of drawn pictures, each row of them under the text that they were drawn from."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from torch import Tensor

TILE = 96
"""Height and width of a picture, pixels."""
LABEL = 18
GAP = 4
COLUMNS = 3
"""Texts side by side."""


def write_sheet(texts: Sequence[str], pictures: "Tensor", path: Path) -> None:
    """Write a sheet; the format follows from the suffix.

    Args:
        texts: what was asked for.
        pictures: (texts, pictures of each, 3, height, width), uint8.
        path: where to.
    """
    each = pictures.shape[1]
    width, height = each * (TILE + GAP) + 2 * GAP, LABEL + TILE + 2 * GAP
    rows = -(-len(texts) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (text, drawn) in enumerate(zip(texts, pictures, strict=True)):
        left, top = number % COLUMNS * width + GAP, number // COLUMNS * height + GAP
        pen.text((left, top), text, fill="black")
        for place, pixels in enumerate(drawn):
            picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
            at = (left + place * (TILE + GAP), top + LABEL)
            sheet.paste(picture.resize((TILE, TILE), Image.Resampling.BICUBIC), at)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=90)

"""Which way up a picture is: what EXIF says of it, and pixels turned accordingly."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
"""Markers of JPEG frames that come in any number of scans."""

ORIENTATION_TAG = 0x0112


def jpeg_facts(data: bytes) -> tuple[int, bool]:
    """Return the EXIF orientation of a JPEG, 1 where it has none that can be read, and whether it is progressive."""
    orientation, is_progressive, position = 1, False, 2
    while data[position] == 0xFF and data[position + 1] not in (0xD9, 0xDA):
        marker = data[position + 1]
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            orientation = _exif_orientation(data[position + 4 : end])
        is_progressive |= marker in PROGRESSIVE
        position = end
    return orientation, is_progressive


def _exif_orientation(data: bytes) -> int:
    from PIL import Image as Pillow

    exif = Pillow.Exif()
    try:
        exif.load(data)
        return _known(exif.get(ORIENTATION_TAG))
    except Exception:  # Pillow raises many kinds; the picture is good without its metadata
        return 1


def orientation_of(picture: "PillowImage") -> int:
    """Return the EXIF orientation of a decoded picture, 1 where it has none that can be read."""
    try:
        return _known(picture.getexif().get(ORIENTATION_TAG))
    except Exception:  # as above
        return 1


def _known(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation of pixels (height, width, …): mirrored when 2, 4, 5 or 7, then turned."""
    if orientation == 1:
        return pixels
    if orientation in (2, 4, 5, 7):
        pixels = pixels[:, ::-1]
    quarter_turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]  # against the clock
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns))

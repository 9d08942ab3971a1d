"""Pictures for those that look at many: small, grey, upright, and opened only when the header shows it to be cheap."""

import io
import warnings
from typing import TYPE_CHECKING

from datamodules.modalities.pictures import HEADER_FORMATS

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

MAX_PIXELS = 64_000_000


def size_of(data: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels from an image's header, or None where the bytes are no image."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data), formats=HEADER_FORMATS).size
    except (
        Exception
    ):  # decoders raise many kinds; that these bytes are no image is for `Undecodable` to count
        return None


def rgb(data: bytes) -> "np.ndarray | None":
    """Return an image as pixels (height, width, 3), uint8, upright and on white; None for no image, or a huge one."""
    import numpy as np

    picture = opened(data, None, 0)
    return None if picture is None else np.array(picture.convert("RGB"))


def grey(data: bytes, side: int) -> "Image | None":
    """Return an image in grey levels, upright and on white, at least `side` pixels wide and high where it was so.

    JPEG is decoded at an eighth, a quarter or half of its size where that is enough.

    Returns:
        None where the bytes are no image, or one of more than 64 million pixels.
    """
    picture = opened(data, "L", side)
    return None if picture is None else picture.convert("L")


def opened(data: bytes, draft: str | None, side: int) -> "Image | None":
    """Return a decoded image, upright and on white; None where it is none, or too large."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data), formats=HEADER_FORMATS)
            if picture.width * picture.height > MAX_PIXELS:
                return None
            if draft is not None:
                picture.draft(draft, (side, side))
            picture = ImageOps.exif_transpose(picture)
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                picture = picture.convert("RGBA")
                white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
                picture = Image.alpha_composite(white, picture)
            return picture
    except Exception:  # as above
        return None

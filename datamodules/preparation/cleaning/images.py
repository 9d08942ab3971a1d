"""Filters by the size and shape of images, which the header tells."""

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datamodules.modalities.pictures import HEADER_FORMATS
from datamodules.preparation.cleaning.filter import Filter, Reject
from datamodules.sources.source import IMAGE_SUFFIXES, Sample

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

MAX_PIXELS = 64_000_000


@dataclass
class ImageSize(Filter):
    """Drop samples with an image whose sides are too short to show anything, or needlessly long."""

    min_side: int = 1
    """The shortest that the shorter side may be, in pixels."""
    max_side: int | None = None
    """The longest that the longer side may be, in pixels; no bound by default."""

    def __post_init__(self) -> None:
        if self.max_side is not None and self.max_side < self.min_side:
            raise ValueError(
                f"ImageSize would drop every image: max_side is {self.max_side}, min_side {self.min_side}"
            )

    def examine(self, sample: Sample) -> None:
        for width, height in sizes(sample):
            if min(width, height) < self.min_side:
                raise Reject("image too small")
            if self.max_side is not None and max(width, height) > self.max_side:
                raise Reject("image too large")


@dataclass
class ImageAspect(Filter):
    """Drop samples with an image that is a strip: banners, rulers, cut-off borders."""

    max_aspect: float = 3.0
    """The longer side over the shorter; 3 is what the builders of DataComp used (arXiv:2304.14108, appendix)."""

    def __post_init__(self) -> None:
        if self.max_aspect < 1:
            raise ValueError(f"ImageAspect.max_aspect is {self.max_aspect}, expected 1 (a square) or more")

    def examine(self, sample: Sample) -> None:
        for width, height in sizes(sample):
            if max(width, height) > self.max_aspect * min(width, height):
                raise Reject("image too narrow")


def sizes(sample: Sample) -> list[tuple[int, int]]:
    """Return width and height of every image of a loaded sample that has a readable header."""
    found = [size_of(data) for suffix, data in sample.members.items() if suffix in IMAGE_SUFFIXES]
    return [size for size in found if size is not None]


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

"""Filters by the size and shape of images, which the header tells, and images as those see them that compare many."""

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.pictures import look_at_picture, read_size
from datamodules.preparation.cleaning.filter import Filter, Reject
from datamodules.sources.source import IMAGE_SUFFIXES, Sample

if TYPE_CHECKING:
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
    found = []
    for suffix, data in sample.members.items():
        if suffix in IMAGE_SUFFIXES:
            with suppress(BadSample):  # that these bytes are no image is for `Undecodable` to count
                found.append(read_size(data))
    return found


def grey(data: bytes, side: int) -> "Image | None":
    """Return an image in grey levels, upright and on white, at least `side` pixels wide and high where it was so.

    Returns:
        None where the bytes are no image, or one of more than 64 million pixels.
    """
    try:
        return look_at_picture(data, mode="L", min_side=side, max_pixels=MAX_PIXELS)
    except BadSample:
        return None

"""Filters by the size and shape of images, which the header tells."""

from dataclasses import dataclass

from datamodules.preparation.cleaning import Filter, Reject
from datamodules.preparation.pictures import size_of
from datamodules.sources.source import IMAGE_SUFFIXES, Sample


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

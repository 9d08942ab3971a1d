"""Filters by the header of images."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from datamodules.preparation.cleaning.filter import Reject
from datamodules.preparation.cleaning.images import ImageAspect, ImageSize, grey


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (64, 64, None),
        (63, 500, "image too small"),
        (500, 63, "image too small"),
        (501, 64, "image too large"),
    ],
)
def test_sides_out_of_bounds_are_rejected(width, height, reason, sample, picture, as_jpeg):
    bounds = ImageSize(min_side=64, max_side=500)
    image = sample(jpg=as_jpeg(picture(0, width, height)))
    if reason is None:
        assert bounds.examine(image) is None
    else:
        with pytest.raises(Reject, match=reason):
            bounds.examine(image)


def test_strips_are_rejected_lying_or_standing(sample, picture, as_jpeg):
    strips = ImageAspect(max_aspect=3)
    strips.examine(sample(png=as_jpeg(picture(0, 90, 30), "PNG")))
    for width, height in ((91, 30), (30, 91)):
        with pytest.raises(Reject, match="too narrow"):
            strips.examine(sample(png=as_jpeg(picture(0, width, height), "PNG")))


def test_samples_without_a_readable_image_are_left_to_others(sample):
    for item in (sample(txt=b"a dog"), sample(jpg=b"<html>404</html>"), sample(flac=b"fLaC")):
        assert ImageSize(min_side=64).examine(item) is None
        assert ImageAspect().examine(item) is None


def test_bounds_that_would_drop_everything_are_refused():
    with pytest.raises(ValueError, match="would drop every image"):
        ImageSize(min_side=300, max_side=200)
    with pytest.raises(ValueError, match="expected 1"):
        ImageAspect(max_aspect=0.5)


def test_grey_levels_are_those_of_the_picture_in_16_bits_too():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)
    file = io.BytesIO()
    Image.fromarray(np.tile(ramp, (32, 1))).save(file, "PNG")
    assert np.abs(np.asarray(grey(file.getvalue(), 32)).astype(int) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_levels_are_those_of_the_picture_upright(kind, orientation, picture, as_jpeg):
    turned = Image.Exif()
    turned[0x0112] = orientation
    data = as_jpeg(picture(1), kind, exif=turned)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("L")
    assert np.abs(np.asarray(grey(data, 10_000)).astype(int) - np.asarray(upright)).max() <= 2

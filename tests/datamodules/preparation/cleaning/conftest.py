"""Pictures and sounds made to be told apart, or not."""

import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from datamodules.sources.source import Sample


def encoded(picture, kind="JPEG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def as_jpeg():
    """A Pillow image to the bytes of a file, JPEG by default."""
    return encoded


@pytest.fixture
def picture():
    """Number -> a picture of many soft shapes in colour, 320 x 240; each number another."""

    def make(number, width=320, height=240):
        draw = np.random.default_rng(number)
        y, x = np.mgrid[0:height, 0:width] / height
        levels = np.zeros((height, width, 3))
        for _ in range(24):
            across, down = draw.normal(0, 4, 2)
            wave = np.cos(2 * np.pi * (across * x + down * y + draw.uniform()))
            levels += draw.normal(0, 1, 3) * wave[..., None] / (1 + np.hypot(across, down))
        levels -= levels.min()
        return Image.fromarray((levels / levels.max() * 255).astype(np.uint8))

    return make


@pytest.fixture
def as_wav():
    """Values to the bytes of a WAV at 16 kHz."""

    def make(values, rate=16_000):
        file = io.BytesIO()
        soundfile.write(file, np.asarray(values, np.float32), rate, format="WAV", subtype="FLOAT")
        return file.getvalue()

    return make


@pytest.fixture
def sample():
    """Members to a sample."""
    return lambda key="k", **members: Sample(key, members, key)

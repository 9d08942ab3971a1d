"""Measures of a sample, for the histograms of a set: lengths, sizes, loudness; cheap, as each kept sample has them."""

import math
from dataclasses import dataclass

import numpy as np

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.pictures import read_size
from datamodules.modalities.sounds import open_sound, read_beginning
from datamodules.preparation.exhibits.histogram import Histogram
from datamodules.preparation.exhibits.previews import LONGEST_S
from datamodules.sources.source import IMAGE_SUFFIXES, SOUND_SUFFIXES, Sample

LEVEL_S = 2
"""The level is that of so much from the start."""
SILENCE_DB = -100.0


@dataclass(frozen=True)
class Measure:
    """What a measure is called, its unit, and the bins of its histogram."""

    title: str
    unit: str = ""
    width: float | None = None

    def histogram(self) -> Histogram:
        """Return an empty histogram of this measure."""
        return Histogram(self.width)


MEASURES = {
    "text_characters": Measure("text: characters"),
    "text_words": Measure("text: words"),
    "image_width": Measure("image: width", "px"),
    "image_height": Measure("image: height", "px"),
    "image_aspect": Measure("image: width over height", width=0.1),
    "sound_seconds": Measure("sound: length", "s"),
    "sound_level": Measure("sound: level of the first 2 s", "dBFS", width=3.0),
    "bytes": Measure("size of a sample", "bytes"),
}


def measure(sample: Sample) -> dict[str, float]:
    """Return the measures of a loaded sample, finite numbers by name; what cannot be measured is left out.

    Of several members of a kind the first counts. Sizes of images are those in their headers.
    """
    found: dict[str, float] = {}
    members = {suffix: data for suffix, data in sample.members.items() if isinstance(data, bytes)}
    for suffix, data in members.items():
        if suffix == "txt":
            of_one = of_text(data)
        elif suffix in IMAGE_SUFFIXES:
            of_one = of_image(data)
        elif suffix in SOUND_SUFFIXES:
            of_one = of_sound(data)
        else:
            continue
        found = of_one | found
    found["bytes"] = float(sum(map(len, members.values())))
    return found


def of_text(data: bytes) -> dict[str, float]:
    """Return the length of a text in characters and in words, which is 1 in a script without spaces."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return {}
    return {"text_characters": float(len(text)), "text_words": float(len(text.split()))}


def of_image(data: bytes) -> dict[str, float]:
    """Return width, height and their ratio, from the header alone."""
    try:
        width, height = read_size(data)
    except BadSample:  # the filters say why such an image is dropped
        return {}
    if not width or not height:
        return {}
    return {"image_width": float(width), "image_height": float(height), "image_aspect": width / height}


def of_sound(data: bytes) -> dict[str, float]:
    """Return the length in seconds that the header tells, and the level of the beginning in dB below full scale."""
    try:
        with open_sound(data, LONGEST_S) as file:
            seconds = file.frames / file.samplerate
            heard = list(read_beginning(file, min(file.frames, LEVEL_S * file.samplerate)))
    except BadSample:
        return {}
    if not heard:
        return {}
    power = float(np.mean(np.square(np.concatenate(heard), dtype=np.float64)))
    level = max(SILENCE_DB, 10 * math.log10(power)) if power else SILENCE_DB
    return {"sound_seconds": seconds, "sound_level": level}

"""Filter for images and sounds that do not decode whole, by the very code that loads them for training."""

from dataclasses import dataclass

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.pictures import read_picture
from datamodules.modalities.sounds import SoundReader
from datamodules.preparation.cleaning.filter import Filter, Reject
from datamodules.sources.source import IMAGE_SUFFIXES, SOUND_SUFFIXES, Sample

MESSAGES = {
    "undecodable_image": "undecodable image",
    "image_too_large": "image too large or too narrow",
    "image_aspect": "image too large or too narrow",
    "audio_not_finite": "sound not finite",
}


@dataclass
class Undecodable(Filter):
    """Drop samples whose image or sound cannot be decoded whole, or is beyond what a loader should be given."""

    max_pixels: int = 50_000_000
    """Images with more pixels are dropped, unopened: a few kilobytes can claim gigabytes."""
    max_aspect: float = 20.0
    """Images whose longer side exceeds the shorter by more are dropped: a resize would make them huge."""
    min_seconds: float = 0.01
    """Sounds shorter than this are dropped."""
    max_seconds: float = 3600.0
    """Sounds longer than this are dropped, without decoding the rest."""

    def examine(self, sample: Sample) -> None:
        for suffix, data in sample.members.items():
            if suffix in IMAGE_SUFFIXES:
                check_image(data, self.max_pixels, self.max_aspect)
            elif suffix in SOUND_SUFFIXES:
                check_sound(data, self.min_seconds, self.max_seconds)


def check_image(data: bytes, max_pixels: int, max_aspect: float) -> None:
    """Decode an image, once its header has shown that this is affordable.

    Raises:
        Reject: it does not decode, or has too many pixels, or is too narrow.
    """
    try:
        # Of a JPEG the whole stream is read, but an eighth of the lines computed.
        read_picture(data, min_height=1, min_width=1, max_pixels=max_pixels, max_aspect=max_aspect)
    except BadSample as bad:
        raise Reject(MESSAGES[bad.reason]) from bad


def check_sound(data: bytes, min_seconds: float, max_seconds: float) -> None:
    """Decode a sound block by block, up to `max_seconds`.

    Raises:
        Reject: it does not decode, is cut, too short or too long, or holds a value that is not finite.
    """
    num_samples = 0
    try:
        reader = SoundReader(data)
        for block in reader.blocks():
            num_samples += len(block)
            if num_samples > max_seconds * reader.rate_hz:
                raise Reject("sound too long")
    except BadSample as bad:
        raise Reject(MESSAGES.get(bad.reason, "undecodable sound")) from bad
    if num_samples < min_seconds * reader.rate_hz:
        raise Reject("sound too short")

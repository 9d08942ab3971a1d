"""Whether bytes are an image or a sound that decodes whole, by the very code that loads them for training."""

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.pictures import read_picture
from datamodules.modalities.sounds import SoundReader

MESSAGES = {
    "undecodable_image": "undecodable image",
    "image_too_large": "image too large or too narrow",
    "image_aspect": "image too large or too narrow",
    "audio_not_finite": "sound not finite",
}


class UndecodableError(ValueError):
    """Bytes that are not what they should be; the message is a few words that are the same for all alike."""


def check_image(data: bytes, max_pixels: int, max_aspect: float) -> None:
    """Decode an image, once its header has shown that this is affordable.

    Raises:
        UndecodableError: it does not decode, or has too many pixels, or is too narrow.
    """
    try:
        # Of a JPEG the whole stream is read, but an eighth of the lines computed.
        read_picture(data, min_height=1, min_width=1, max_pixels=max_pixels, max_aspect=max_aspect)
    except BadSample as bad:
        raise UndecodableError(MESSAGES[bad.reason]) from bad


def check_sound(data: bytes, min_seconds: float, max_seconds: float) -> None:
    """Decode a sound block by block, up to `max_seconds`.

    Raises:
        UndecodableError: it does not decode, is cut, too short or too long, or holds a value that is not finite.
    """
    num_samples = 0
    try:
        reader = SoundReader(data)
        for block in reader.blocks():
            num_samples += len(block)
            if num_samples > max_seconds * reader.rate_hz:
                raise UndecodableError("sound too long")
    except BadSample as bad:
        raise UndecodableError(MESSAGES.get(bad.reason, "undecodable sound")) from bad
    if num_samples < min_seconds * reader.rate_hz:
        raise UndecodableError("sound too short")

"""Whether bytes are an image or a sound that decodes whole, found out without trusting a header or a file name."""

import hashlib
import io
import warnings

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")
SOUND_FORMATS = frozenset({"FLAC", "WAV", "WAVEX", "OGG", "MP3"})
BLOCK_FRAMES = 1 << 16
UNKNOWN_LENGTH = 0x7FFF_0000
FLAC_BYTES_PER_SAMPLE = {"PCM_S8": 1, "PCM_16": 2, "PCM_24": 3}


class UndecodableError(ValueError):
    """Bytes that are not what they should be; the message is a few words that are the same for all alike."""


def check_image(data: bytes, max_pixels: int, max_aspect: float) -> None:
    """Decode an image of an allowed format, once its header has shown that this is affordable.

    Raises:
        UndecodableError: it does not decode, or has too many pixels, or is too narrow.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
            width, height = image.size
            is_affordable = width * height <= max_pixels and max(image.size) <= max_aspect * min(image.size)
            if is_affordable:
                image.draft(
                    "RGB", (1, 1)
                )  # JPEG: the whole stream is read, but an eighth of the lines computed
                image.load()
    except (
        Exception
    ) as error:  # Pillow's decoders raise whatever their format brings: struct.error, KeyError, …
        raise UndecodableError("undecodable image") from error
    if not is_affordable:
        raise UndecodableError("image too large or too narrow")


def check_sound(data: bytes, min_seconds: float, max_seconds: float) -> None:
    """Decode a sound of an allowed format block by block, up to `max_seconds`.

    Raises:
        UndecodableError: it does not decode, is cut, too short or too long, or holds a value that is not finite.
    """
    import numpy
    import soundfile

    if is_cut_wav(data):
        raise UndecodableError("undecodable sound")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            is_known, is_flac = sound.format in SOUND_FORMATS, sound.format == "FLAC"
            promised, rate_hz = sound.frames, sound.samplerate
            frames, digest = 0, hashlib.md5(usedforsecurity=False)
            sample_bytes = FLAC_BYTES_PER_SAMPLE.get(sound.subtype, 4)
            blocks = sound.blocks(BLOCK_FRAMES, dtype="int32" if is_flac else "float32") if is_known else ()
            for block in blocks:
                frames += len(block)
                if frames > max_seconds * rate_hz:
                    raise UndecodableError("sound too long")
                if is_flac:
                    digest.update(block.view("uint8").reshape(-1, 4)[:, 4 - sample_bytes :].tobytes())
                elif not numpy.isfinite(block).all():
                    raise UndecodableError("sound not finite")
    except soundfile.SoundFileError as error:
        raise UndecodableError("undecodable sound") from error
    # libsndfile fills up a FLAC that is cut with silence; what it should decode to has this checksum.
    is_damaged_flac = (
        is_flac and any(data[26:42]) and data.startswith(b"fLaC") and digest.digest() != data[26:42]
    )
    if not is_known or frames < promised or is_damaged_flac:
        raise UndecodableError("undecodable sound")
    if frames < min_seconds * rate_hz:
        raise UndecodableError("sound too short")


def is_cut_wav(data: bytes) -> bool:
    """Return whether these are the bytes of a WAV that ends before its header says; libsndfile reads it as shorter.

    Programs that write to a pipe cannot know the length and leave 0 or a huge one: that is no cut.
    """
    length = int.from_bytes(data[4:8], "little")
    return data.startswith(b"RIFF") and len(data) - 8 < length < UNKNOWN_LENGTH

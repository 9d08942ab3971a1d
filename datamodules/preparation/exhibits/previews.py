"""Previews of members: a thumbnail, a waveform, a few words; small plain values, whatever the bytes are."""

import base64
import io
import unicodedata
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.modalities.pictures import HEADER_FORMATS
from datamodules.sources.source import IMAGE_SUFFIXES, SOUND_SUFFIXES, Member, read

if TYPE_CHECKING:
    from PIL.Image import Image
    from soundfile import SoundFile

TEXT_SUFFIXES = frozenset({"txt", "cls", "json", "srt", "vtt"})
SIDE_PIXELS = 160
MAX_PIXELS = 25_000_000
MAX_ASPECT = 50
MAX_FILE_BYTES = 32 << 20
MAX_PLAYED_BYTES = 100_000
MAX_HEARD_S = 60
LONGEST_S = 1e6
MAX_CHARACTERS = 300
MAX_SUFFIX = 40
PEAKS = 120
BLOCK_FRAMES = 1 << 16
"""libsndfile seeks before each read, which is slow: fewer and larger ones are better."""
MIMES = {
    "FLAC": "audio/flac",
    "WAV": "audio/wav",
    "WAVEX": "audio/wav",
    "OGG": "audio/ogg",
    "MP3": "audio/mpeg",
}
SAMPLING_RATES_HZ = range(1_000, 768_001)
MAX_CHANNELS = 64


class PreviewError(ValueError):
    """Bytes that cannot be shown; the message says why in a few words."""


def preview(suffix: str, member: Member) -> dict[str, Any]:
    """Return what can be shown of a member, plain values: its `suffix`, its `kind` and what that kind has.

    | kind | has |
    |---|---|
    | picture | `uri` of a JPEG of at most 160 pixels a side, `width` and `height` of the whole |
    | sound | `seconds`, `peaks` in [0, 1] of the first minute, `uri` of all when small |
    | text | `text`, at most 300 characters, `is_cut` |
    | file | nothing: this kind cannot be shown |
    | bad | `why` it cannot be shown |
    """
    found: dict[str, Any] = {"suffix": plain(suffix, MAX_SUFFIX)}
    try:
        if suffix in IMAGE_SUFFIXES:
            return found | {"kind": "picture", **picture(looked_at(member))}
        if suffix in SOUND_SUFFIXES:
            return found | {"kind": "sound", **sound(looked_at(member))}
        if suffix in TEXT_SUFFIXES:
            return found | {"kind": "text", **words(looked_at(member))}
    except PreviewError as error:
        return found | {"kind": "bad", "why": str(error)}
    return found | {"kind": "file"}


def looked_at(member: Member) -> bytes:
    """Return the bytes of a member, if they are few enough to look at.

    Raises:
        PreviewError: the file cannot be read, or is too large.
    """
    try:
        data = read(member, MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PreviewError(f"unreadable: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise PreviewError("too large to show")
    return data


def picture(data: bytes) -> dict[str, Any]:
    """Return a thumbnail, upright, on white, and the size of the whole in pixels, as stored.

    Raises:
        PreviewError: it is no picture of an allowed format, or too large or too narrow to decode for this.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=HEADER_FORMATS)
            width, height = image.size
            if width * height > MAX_PIXELS or max(image.size) > MAX_ASPECT * min(image.size):
                raise PreviewError(f"{width} × {height} pixels: too many, or too narrow, to show")
            image.draft("RGB", (2 * SIDE_PIXELS, 2 * SIDE_PIXELS))
            small = opaque(ImageOps.exif_transpose(image))
            small.thumbnail((SIDE_PIXELS, SIDE_PIXELS))
            file = io.BytesIO()
            small.save(file, "JPEG", quality=80)
    except PreviewError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever their format brings
        raise PreviewError(f"undecodable ({type(error).__name__})") from error
    return {"uri": data_uri(file.getvalue(), "image/jpeg"), "width": width, "height": height}


def opaque(image: "Image") -> "Image":
    """Return an image as 8-bit RGB: 16 bits scaled, transparency laid on white."""
    from PIL import Image

    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def sound(data: bytes) -> dict[str, Any]:
    """Return the length in seconds as the header has it, peaks of the first minute, and all of it when that is small.

    Raises:
        PreviewError: it is no sound of an allowed format, or not finite.
    """
    import soundfile

    try:
        with opened_sound(data) as file:
            frames = min(file.frames, MAX_HEARD_S * file.samplerate)
            group = max(1, frames // (4 * PEAKS))
            largest = [
                np.maximum.reduceat(np.abs(part).max(1), np.arange(0, len(part), group))
                for part in blocks(file, frames)
            ]
            found = {
                "seconds": round(file.frames / file.samplerate, 3),
                "peaks": [round(peak, 2) for peak in peaks(np.concatenate([[0.0], *largest]), PEAKS)],
            }
            mime = MIMES[file.format]
    except soundfile.SoundFileError as error:
        raise PreviewError("undecodable") from error
    return found | ({"uri": data_uri(data, mime)} if len(data) <= MAX_PLAYED_BYTES else {})


def opened_sound(data: bytes) -> "SoundFile":
    """Open a sound of an allowed format, rate, number of channels and length, all as the header claims.

    Raises:
        PreviewError: it is none.
        soundfile.SoundFileError: it cannot be opened.
    """
    import soundfile

    file = soundfile.SoundFile(io.BytesIO(data))
    is_usual = file.samplerate in SAMPLING_RATES_HZ and file.channels <= MAX_CHANNELS
    if file.format in MIMES and is_usual and file.frames <= LONGEST_S * file.samplerate:
        return file
    file.close()
    raise PreviewError(
        f"{file.format}, {file.samplerate} Hz, {file.channels} channels, {file.frames} frames: not shown"
    )


def blocks(file: "SoundFile", frames: int) -> Iterator[np.ndarray]:
    """Yield at most `frames` frames of a sound in blocks (frames, channels), float32, none of them empty.

    Raises:
        PreviewError: a value is not finite.
    """
    while frames > 0:
        part = file.read(min(BLOCK_FRAMES, frames), dtype="float32", always_2d=True)
        if not len(part):
            return
        if not np.isfinite(part).all():
            raise PreviewError("not finite")
        frames -= len(part)
        yield part


def peaks(sizes: np.ndarray, count: int) -> list[float]:
    """Return the largest of `sizes` (samples,) in each of `count` equal spans, relative to the largest of all."""
    largest = np.array([span.max(initial=0.0) for span in np.array_split(sizes, count)])
    return (largest / (largest.max() or 1.0)).tolist()


def words(data: bytes) -> dict[str, Any]:
    """Return the beginning of a text; bytes that are not UTF-8 become question marks."""
    text = data[: 8 * MAX_CHARACTERS].decode("utf-8-sig", "replace")
    return {
        "text": plain(text, MAX_CHARACTERS),
        "is_cut": len(text) > MAX_CHARACTERS or len(data) > 8 * MAX_CHARACTERS,
    }


def plain(text: str, limit: int) -> str:
    """Return at most `limit` characters without any that would change how others are shown, or that UTF-8 lacks."""
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
        else "\ufffd"
        for character in text[:limit]
    )


def data_uri(data: bytes, mime: str) -> str:
    """Return bytes as a URI that holds them."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"

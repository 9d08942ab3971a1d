"""Previews of members: a thumbnail, a waveform, a few words; small plain values, whatever the bytes are."""

import base64
import io
import unicodedata
from typing import Any

import numpy as np

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.pictures import look_at_picture, read_size
from datamodules.modalities.sounds import FORMATS, open_sound, read_beginning
from datamodules.sources.source import IMAGE_SUFFIXES, SOUND_SUFFIXES, Member, read

TEXT_SUFFIXES = frozenset({"txt", "cls", "num", "conll", "json", "srt", "vtt"})
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
WHY = {
    "image_too_large": "too many pixels to show",
    "image_aspect": "too narrow to show",
    "undecodable_image": "undecodable",
    "undecodable_audio": "undecodable",
    "audio_header": "of no usual rate, channels or length",
    "audio_not_finite": "not finite",
}


class PreviewError(ValueError):
    """A member that cannot be read to be shown; the message says why in a few words."""


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
    except BadSample as bad:
        return found | {"kind": "bad", "why": WHY[bad.reason]}
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
        BadSample: it is no picture of an allowed format, or too large or too narrow to decode for this.
    """
    width, height = read_size(data)
    small = look_at_picture(
        data, mode="RGB", min_side=2 * SIDE_PIXELS, max_pixels=MAX_PIXELS, max_aspect=MAX_ASPECT
    )
    small.thumbnail((SIDE_PIXELS, SIDE_PIXELS))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=80)
    return {"uri": data_uri(file.getvalue(), "image/jpeg"), "width": width, "height": height}


def sound(data: bytes) -> dict[str, Any]:
    """Return the length in seconds as the header has it, peaks of the first minute, and all of it when that is small.

    Raises:
        BadSample: it is no sound of an allowed format, or not finite.
    """
    with open_sound(data, LONGEST_S) as file:
        frames = min(file.frames, MAX_HEARD_S * file.samplerate)
        group = max(1, frames // (4 * PEAKS))
        largest = [
            np.maximum.reduceat(np.abs(part).max(1), np.arange(0, len(part), group))
            for part in read_beginning(file, frames)
        ]
        found = {
            "seconds": round(file.frames / file.samplerate, 3),
            "peaks": [round(peak, 2) for peak in peaks(np.concatenate([[0.0], *largest]), PEAKS)],
        }
        mime = FORMATS[file.format]
    return found | ({"uri": data_uri(data, mime)} if len(data) <= MAX_PLAYED_BYTES else {})


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

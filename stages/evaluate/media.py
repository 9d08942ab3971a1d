"""Raw members of samples as elements of the page: pictures, playable sound, words; nothing links outside it."""

import io
from collections.abc import Mapping, Sequence

import numpy as np

from datamodules.preparation.exhibits.previews import data_uri, peaks, words
from stages.page import media
from stages.page.html import Html, tag

PICTURES = {"jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
SOUNDS = {"flac": "audio/flac", "wav": "audio/wav", "mp3": "audio/mpeg", "ogg": "audio/ogg"}
BARS = 44


def show(sample: Mapping[str, bytes], members: Sequence[str]) -> Html:
    """Return the first member of a sample that is among `members`; a dash when it has none.

    What is neither a picture nor a sound is shown by its first words, or by its size where it is no text.

    Args:
        sample: suffix -> bytes.
        members: suffixes that a modality answers to.
    """
    suffix = next((name for name in members if name in sample), "")
    if suffix in PICTURES:
        return picture(sample[suffix], PICTURES[suffix])
    if suffix in SOUNDS:
        return player(sample[suffix], SOUNDS[suffix])
    return tag("p", described(sample, suffix), class_="words")


def described(sample: Mapping[str, bytes], suffix: str) -> str:
    """Return a member as text: its beginning, or what it is where it is no text; a dash when there is none."""
    if suffix not in sample:
        return "–"
    shown = words(sample[suffix])
    if "\ufffd" in shown["text"]:
        return f".{suffix}, {len(sample[suffix]):,} bytes"
    return shown["text"] + ("…" if shown["is_cut"] else "")


def picture(data: bytes, mime: str, *overlays: Html) -> Html:
    """Return a picture with others laid over it."""
    return media.picture(data_uri(data, mime), *overlays)


def player(data: bytes, mime: str) -> Html:
    """Return a play button with the sound's waveform."""
    import soundfile

    samples, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)  # (samples, channels)
    return media.player(data_uri(data, mime), peaks(np.abs(samples).max(1), BARS))


def heat(weights: np.ndarray) -> Html:
    """Return a map of weights (height, width), from the smallest to the largest, to lay over a picture."""
    from PIL import Image

    share = (weights - weights.min()) / (np.ptp(weights) or 1.0)
    colour = np.full((*weights.shape, 4), (255, 84, 38, 0), dtype=np.uint8)
    colour[..., 3] = (share * 215).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colour).resize((128, 128), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return tag("img", class_="heat", alt="", src=data_uri(buffer.getvalue(), "image/png"))

"""Raw members of samples as elements of the page: pictures, playable sound, words; nothing links outside it."""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np

from stages.evaluate.charts import waveform
from stages.evaluate.html import Html, tag

PICTURES = {"jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
SOUNDS = {"flac": "audio/flac", "wav": "audio/wav", "mp3": "audio/mpeg", "ogg": "audio/ogg"}
BARS = 44


def show(sample: Mapping[str, bytes], members: Sequence[str]) -> Html:
    """Return the first member of a sample that is among `members`; a dash when it has none.

    Args:
        sample: suffix -> bytes.
        members: suffixes that a modality answers to.
    """
    suffix = next((name for name in members if name in sample), "")
    if suffix in PICTURES:
        return picture(sample[suffix], PICTURES[suffix])
    if suffix in SOUNDS:
        return player(sample[suffix], SOUNDS[suffix])
    return tag("p", sample.get(suffix, "–".encode()).decode("utf-8", "replace"), class_="words")


def picture(data: bytes, mime: str, *overlays: Html) -> Html:
    """Return a picture with others laid over it."""
    return tag("span", tag("img", alt="", src=data_uri(data, mime)), overlays, class_="picture")


def player(data: bytes, mime: str) -> Html:
    """Return a play button with the sound's waveform."""
    button = tag("button", type="button", class_="play", aria_label="Play")
    audio = tag("audio", preload="none", src=data_uri(data, mime))
    return tag("span", button, waveform(envelope(data)), audio, class_="player")


def heat(weights: np.ndarray) -> Html:
    """Return a map of weights (height, width), from the smallest to the largest, to lay over a picture."""
    from PIL import Image

    share = (weights - weights.min()) / (np.ptp(weights) or 1.0)
    colour = np.full((*weights.shape, 4), (255, 84, 38, 0), dtype=np.uint8)
    colour[..., 3] = (share * 215).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colour).resize((128, 128), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return tag("img", class_="heat", alt="", src=data_uri(buffer.getvalue(), "image/png"))


def envelope(data: bytes, bars: int = BARS) -> list[float]:
    """Return the peaks of a sound in equal spans of time, relative to the largest, in [0, 1]."""
    import soundfile

    samples, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)  # (samples, channels)
    spans = np.array_split(np.abs(samples).max(1), bars)
    peaks = np.array([span.max(initial=0.0) for span in spans])
    return (peaks / (peaks.max() or 1.0)).tolist()


def data_uri(data: bytes, mime: str) -> str:
    """Return bytes as a URI that holds them."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"

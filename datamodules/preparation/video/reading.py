"""Sound and frames out of MP4, MKV and WebM."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from datamodules.modalities.containers import ContainerError, open_container

if TYPE_CHECKING:
    from av.container import InputContainer

SAMPLING_RATE = 16_000
JPEG_QUALITY = 92


class VideoError(ValueError):
    """A video that cannot be used."""


class NoTrackError(VideoError):
    """A video that lacks the track that was asked for."""


@contextmanager
def opened(path: Path, *needs: Literal["pictures", "sound"]) -> "Iterator[InputContainer]":
    """Open a video that has what is needed; errors of FFmpeg become VideoError.

    Raises:
        NoTrackError: it has no such track.
        VideoError: it cannot be decoded.
    """
    try:
        with path.open("rb") as file, open_container(file) as container:
            tracks = {"pictures": container.streams.video, "sound": container.streams.audio}
            if missing := [track for track in needs if not tracks[track]]:
                raise NoTrackError(f"{path} has no {missing[0]}; expected a track of it.")
            yield container
    except ContainerError as error:
        raise VideoError(f"{path} cannot be decoded: {error}.") from error


def read_sound(path: Path, max_seconds: float) -> np.ndarray:
    """Return a video's first sound track as waveform (samples,), float32, 16 kHz, mono, from time 0 on.

    Raises:
        VideoError: it cannot be decoded, has no sound, or is longer than `max_seconds`.
    """
    import av

    pieces, num_samples, first = [], 0, None
    with opened(path, "sound") as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLING_RATE)
        for frame in container.decode(audio=0):
            first = round((frame.time or 0.0) * SAMPLING_RATE) if first is None else first
            for part in resampler.resample(frame):
                pieces.append(part.to_ndarray()[0])
                num_samples += part.samples
            if first + num_samples > max_seconds * SAMPLING_RATE:
                raise VideoError(f"{path} is longer than {max_seconds:.0f} s; cut it, or raise max_seconds.")
        pieces += [part.to_ndarray()[0] for part in resampler.resample(None)]
    sound = np.concatenate([np.zeros(max(0, first or 0), np.float32), *pieces])[max(0, -(first or 0)) :]
    if not sound.size or not np.isfinite(sound).all():
        raise VideoError(f"{path} has no sound, or some that is not finite; expected a sound track.")
    return sound


def read_frames(path: Path, times_s: list[float], max_pixels: int) -> list[bytes]:
    """Return the pictures shown at `times_s`, ascending, as JPEG; after the end, the last one.

    Raises:
        VideoError: it cannot be decoded, has no picture, or one with more than `max_pixels`.
    """
    pictures: list[bytes] = []
    shown = None
    with opened(path, "pictures") as container:
        for frame in container.decode(video=0):
            if frame.width * frame.height > max_pixels:
                raise VideoError(
                    f"{path} is {frame.width} x {frame.height}; expected at most {max_pixels} pixels."
                )
            while len(pictures) < len(times_s) and shown is not None and frame.time > times_s[len(pictures)]:
                pictures.append(jpeg(shown))
            if len(pictures) == len(times_s):
                return pictures
            shown = frame
    if shown is None:
        raise VideoError(f"{path} has no picture that can be decoded.")
    return pictures + [jpeg(shown)] * (len(times_s) - len(pictures))


def jpeg(frame: object) -> bytes:
    """Return a decoded frame as JPEG."""
    file = io.BytesIO()
    frame.to_image().save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()

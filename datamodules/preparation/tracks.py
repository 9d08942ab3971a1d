"""The tracks of a video by their timestamps: sound laid where it belongs, pictures at a constant rate.

Time 0 is when the first picture is shown. A container may let the sound begin later, leave gaps in it, or say by its
timestamps that the clock of the recorder ran at another speed than it was told; samples merely strung together drift.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datamodules.preparation.sync import Drift, repaired
from datamodules.preparation.video.reading import VideoError, opened

if TYPE_CHECKING:
    from av import VideoFrame

LEAST_DRIFT_S = 0.003
"""Less than this at the end is no drift: Matroska rounds its timestamps to milliseconds, and nobody hears it."""
LEAST_GAP_S = 0.05
LEAST_MOMENTS = 10
TOLERANCE = Fraction(1, 4)
"""A picture may be this part of a frame late and is taken to be in time."""


@dataclass(frozen=True)
class Sound:
    """A sound track by the clock of the pictures."""

    waveform: np.ndarray
    """(samples,) float32, mono, from the first picture on."""
    offset_s: float
    """How long after the first picture the sound began."""
    rate: float
    """How much longer it lasts by its timestamps than by its samples: what was repaired by resampling."""
    num_gaps: int
    """How many gaps were filled with silence."""


def first_picture_s(path: Path) -> Fraction:
    """Return when the first picture is shown, by the container's clock.

    Raises:
        VideoError: it cannot be decoded or has no picture.
    """
    with opened(path, "pictures") as container:
        for frame in container.decode(video=0):
            return Fraction(frame.pts or 0) * frame.time_base
    raise VideoError(f"{path} has no picture that can be decoded.")


def read_sound_track(path: Path, sampling_rate: int, max_seconds: float) -> Sound:
    """Return the first sound track of a video by the clock of its pictures.

    Raises:
        VideoError: it cannot be decoded, has no sound, or is longer than `max_seconds`.
    """
    import av

    begin_s = first_picture_s(path)
    pieces: list[np.ndarray] = []
    moments: list[tuple[int, float]] = []  # samples before, and when they should be over
    with opened(path, "sound") as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=sampling_rate)
        num_in, rate_in = 0, None
        for frame in container.decode(audio=0):
            rate_in = rate_in or frame.sample_rate
            if frame.pts is not None:
                moments.append((num_in, float(Fraction(frame.pts) * frame.time_base - begin_s)))
            num_in += frame.samples
            pieces += [part.to_ndarray()[0] for part in resampler.resample(frame)]
            if num_in > max_seconds * rate_in:
                raise VideoError(f"{path} is longer than {max_seconds:.0f} s; cut it, or raise max_seconds.")
        pieces += [part.to_ndarray()[0] for part in resampler.resample(None)]
    if not pieces or not moments:
        raise VideoError(f"{path} has no sound that can be decoded; expected a sound track.")
    sound = np.concatenate(pieces)
    if not np.isfinite(sound).all():
        raise VideoError(f"{path} has sound that is not finite.")
    counted_s, stamped_s = np.array(moments).T / [[rate_in], [1.0]]
    return laid(sound, counted_s, stamped_s, sampling_rate)


def laid(sound: np.ndarray, counted_s: np.ndarray, stamped_s: np.ndarray, sampling_rate: int) -> Sound:
    """Return sound laid by its timestamps; moments (frames,) tell samples before, in seconds, and the time stamped."""
    jumps = np.flatnonzero(np.diff(stamped_s - counted_s) > LEAST_GAP_S) + 1
    pieces, offset_s, clock = [], float(stamped_s[0]), 0
    bounds = [0, *jumps.tolist(), len(counted_s)]
    rate = steady_rate(counted_s, stamped_s, bounds)
    for index, (begin, after) in enumerate(pairwise(bounds)):
        start = round(counted_s[begin] * sampling_rate) if index else 0
        stop = round(counted_s[after] * sampling_rate) if after < len(counted_s) else len(sound)
        piece = repaired(sound[start:stop], Drift(0.0, 1 / rate), sampling_rate)
        # The median over all stamps of the part, as each may be rounded to a millisecond.
        late_s = stamped_s[begin:after] - rate * (counted_s[begin:after] - counted_s[begin])
        place = round(float(np.median(late_s)) * sampling_rate)
        piece = piece[max(0, clock - place) :] if index or place < 0 else piece
        pieces += [np.zeros(max(0, place - clock), np.float32), piece]
        clock += max(0, place - clock) + len(piece)
    return Sound(np.concatenate(pieces).astype(np.float32), offset_s, rate, len(jumps))


def steady_rate(counted_s: np.ndarray, stamped_s: np.ndarray, bounds: list[int]) -> float:
    """Return how fast stamps run against samples within the parts between gaps; 1 unless it is clear."""
    longest = max(pairwise(bounds), key=lambda part: part[1] - part[0])
    counted_s, stamped_s = counted_s[slice(*longest)], stamped_s[slice(*longest)]
    if len(counted_s) < LEAST_MOMENTS:
        return 1.0
    rate = float(np.polyfit(counted_s - counted_s[0], stamped_s - stamped_s[0], 1)[0])
    return rate if abs(rate - 1) * (counted_s[-1] - counted_s[0]) > LEAST_DRIFT_S else 1.0


def pictures_at(path: Path, frame_rate: Fraction, max_pixels: int) -> "Iterator[VideoFrame]":
    """Yield the pictures that are shown at 0, 1 / frame_rate, 2 / frame_rate, ... after the first one.

    Raises:
        VideoError: it cannot be decoded, or has a picture of more than `max_pixels`.
    """
    begin_s, shown, index = None, None, 0
    with opened(path, "pictures") as container:
        for frame in container.decode(video=0):
            if frame.width * frame.height > max_pixels:
                raise VideoError(
                    f"{path} is {frame.width} x {frame.height}; expected at most {max_pixels} pixels."
                )
            time_s = Fraction(frame.pts or 0) * frame.time_base
            begin_s = time_s if begin_s is None else begin_s
            while shown is not None and (time_s - begin_s) * frame_rate > index + TOLERANCE:
                yield shown
                index += 1
            shown = frame
    if shown is None:
        raise VideoError(f"{path} has no picture that can be decoded.")
    yield shown

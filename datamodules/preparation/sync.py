"""Frames and samples in step: which samples belong to which frame, and clocks that disagree made to agree.

Times are seconds; sound is a waveform (samples,), float32, mono.
"""

from fractions import Fraction
from typing import NamedTuple

import numpy as np

ENVELOPE_HZ = 1000
"""Clocks are compared roughly by loudness, so often a second."""
ROUGH_WINDOW_S, FINE_WINDOW_S = 2.0, 0.5
MAX_WINDOWS = 200
FINE_REACH_S = 0.02
NUM_FINE_ROUNDS = 2
LEAST_CORRELATION = 0.3
"""Where two sounds agree less than this, they tell nothing of their clocks."""
LEAST_EVENTS, MAX_EVENTS = 5, 500
EVENT_HEIGHT = 0.3
"""An event is at least this share of the strongest one (the median of the ten strongest)."""


class SyncError(ValueError):
    """Two tracks whose clocks cannot be compared."""


class Drift(NamedTuple):
    """What happens at `time` by the right clock comes at `offset_s + rate * time` by the other."""

    offset_s: float
    rate: float


def sample_bounds(first: int, num_frames: int, frame_rate: Fraction, sampling_rate: int) -> np.ndarray:
    """Return where the samples of frames begin (num_frames + 1,), int64; the last is where those after begin.

    Frame t has samples `round(t * sampling_rate / frame_rate)` (half up) to that of t + 1: at 25 frames per second and
    16 kHz always 640, at 29.97 by turns 533 and 534. Whole numbers throughout: hours later nothing has drifted.

    Raises:
        ValueError: a rate is not positive, or a number of frames is negative.
    """
    if frame_rate <= 0 or sampling_rate <= 0 or first < 0 or num_frames < 0:
        raise ValueError(
            f"found {num_frames} frames from {first} on at {frame_rate} per second and {sampling_rate} Hz; "
            "expected positive rates and no negative number"
        )
    frames = np.arange(first, first + num_frames + 1, dtype=np.int64)
    doubled = frames * (2 * sampling_rate * frame_rate.denominator) + frame_rate.numerator
    return doubled // (2 * frame_rate.numerator)


def repaired(sound: np.ndarray, drift: Drift, sampling_rate: int) -> np.ndarray:
    """Return a sound by the right clock: resampled at `drift.rate`, and shifted; silence where there is none."""
    import soxr

    if drift.rate != 1.0:
        sound = soxr.resample(sound, sampling_rate * drift.rate, sampling_rate, quality="VHQ")
    shift = round(drift.offset_s / drift.rate * sampling_rate)
    return sound[shift:] if shift >= 0 else np.pad(sound, (-shift, 0))


def drift_between(
    reference: np.ndarray, other: np.ndarray, sampling_rate: int, max_offset_s: float = 2.0
) -> Drift:
    """Return how the clock of another recording of the same runs against that of the reference.

    First by loudness, to the millisecond, then by the waveforms, to a part of a sample.

    Raises:
        SyncError: they are too short or have too little in common.
    """
    loudness = [envelope(sound, sampling_rate) for sound in (reference, other)]
    found = line_through(*lags(*loudness, rate_hz=ENVELOPE_HZ, window_s=ROUGH_WINDOW_S, reach_s=max_offset_s))
    for _ in range(NUM_FINE_ROUNDS):
        near = repaired(other, found, sampling_rate)
        rest = line_through(
            *lags(reference, near, rate_hz=sampling_rate, window_s=FINE_WINDOW_S, reach_s=FINE_REACH_S)
        )
        shift_s = (
            round(found.offset_s / found.rate * sampling_rate) / sampling_rate
        )  # what repaired() took off
        found = Drift(found.rate * (shift_s + rest.offset_s), found.rate * rest.rate)
    return found


def envelope(sound: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Return how loud a sound is (milliseconds,), compressed as hearing is."""
    size = sampling_rate / ENVELOPE_HZ
    edges = np.rint(np.arange(int(len(sound) / size) + 1) * size).astype(int)
    if len(edges) < 2:
        return np.zeros(0)
    return np.sqrt(np.add.reduceat(np.abs(sound[: edges[-1]]), edges[:-1]) / size)


def lags(
    reference: np.ndarray, other: np.ndarray, *, rate_hz: int, window_s: float, reach_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the middles of windows of the reference, and where the other has them (windows,) each, seconds.

    Windows that are silent, or found nowhere within `reach_s`, are left out.
    """
    from scipy.signal import correlate

    size, reach = round(window_s * rate_hz), round(reach_s * rate_hz)
    last = min(len(reference), len(other)) - size
    places, found = [], []
    for begin in np.unique(np.linspace(0, max(0, last), MAX_WINDOWS).astype(int)) if last >= 0 else []:
        window = reference[begin : begin + size] - reference[begin : begin + size].mean()
        low = max(0, begin - reach)
        piece = other[low : begin + size + reach]
        if len(piece) < size or not window.any():
            continue
        piece = piece - piece.mean()
        score = correlate(piece, window, mode="valid")
        score = score / np.sqrt(np.maximum(running_energy(piece, size) * np.square(window).sum(), 1e-20))
        best = int(score.argmax())
        if score[best] >= LEAST_CORRELATION:
            places.append((begin + size / 2) / rate_hz)
            found.append((low + best + parabola(score, best) + size / 2) / rate_hz)
    return np.array(places), np.array(found)


def running_energy(piece: np.ndarray, size: int) -> np.ndarray:
    """Return the energy of each window of `size` in a piece."""
    total = np.concatenate([[0.0], np.cumsum(np.square(piece, dtype=np.float64))])
    return total[size:] - total[:-size]


def parabola(score: np.ndarray, best: int) -> float:
    """Return how far the peak is from `best`, at most half a step, by the parabola through its neighbours."""
    if not 0 < best < len(score) - 1:
        return 0.0
    before, here, after = score[best - 1 : best + 2]
    bend = before - 2 * here + after
    return float(np.clip((before - after) / (2 * bend), -0.5, 0.5)) if bend < 0 else 0.0


def line_through(times_s: np.ndarray, found_s: np.ndarray) -> Drift:
    """Return the line through places that were found, indifferent to outliers (Theil-Sen).

    Raises:
        SyncError: there are fewer than three.
    """
    from scipy.stats import theilslopes

    if len(times_s) < 3:
        raise SyncError(
            f"found the same in {len(times_s)} places of two tracks; expected at least 3. Are they of one scene?"
        )
    rate = float(theilslopes(found_s, times_s)[0])
    return Drift(float(np.median(found_s - rate * times_s)), rate)


def drift_from_events(
    changes: np.ndarray,
    frame_rate: Fraction,
    sound: np.ndarray,
    sampling_rate: int,
    max_offset_s: float = 1.0,
) -> Drift:
    """Return how the clock of the sound runs against that of the pictures, where both show the same events.

    A clapper, a flash, a ball that hits the floor: `changes` (frames,) is how much each frame differs from the one
    before. Each strong change is paired with the nearest strong onset of sound after the common offset is taken off;
    in all, the drift may not come to more than two frames.

    Raises:
        SyncError: there are fewer than five events, or they do not recur at one offset.
    """
    seen_s = peaks(changes) / float(frame_rate)
    loud = envelope(sound, sampling_rate)
    onsets = peaks(np.maximum(0, np.diff(loud, prepend=loud[:1])))
    heard_s = np.array(
        [onset(sound, round(one * sampling_rate / ENVELOPE_HZ), sampling_rate) for one in onsets]
    )
    if min(len(seen_s), len(heard_s)) < LEAST_EVENTS:
        raise SyncError(
            f"found {len(seen_s)} events to see and {len(heard_s)} to hear; expected at least {LEAST_EVENTS} of each"
        )
    tolerance_s = 1 / float(frame_rate)
    apart = heard_s[None, :] - seen_s[:, None]
    offered = apart[np.abs(apart) <= max_offset_s]
    support = np.array([(np.abs(offered - one) <= tolerance_s).sum() for one in offered])
    by_chance = len(offered) * tolerance_s / max_offset_s
    if not len(support) or support.max() < max(LEAST_EVENTS, 0.6 * len(seen_s), 2 * by_chance):
        raise SyncError(
            "what is seen and what is heard do not recur at one offset; expected events such as a flash with a click"
        )
    best = offered[support == support.max()]
    offset_s = float(best[np.abs(best).argmin()])
    nearest = np.abs(apart - offset_s).argmin(axis=1)
    fits = np.abs(apart[np.arange(len(seen_s)), nearest] - offset_s) <= 2 * tolerance_s
    return line_through(seen_s[fits], heard_s[nearest[fits]])


def peaks(strength: np.ndarray) -> np.ndarray:
    """Return where events are (events,): the strongest local maxima of at least EVENT_HEIGHT."""
    if len(strength) < 3:
        return np.zeros(0, np.int64)
    usual = float(np.median(np.sort(strength)[-10:]))
    inner = np.pad(strength, 1)
    is_peak = (
        (strength > inner[:-2])
        & (strength >= inner[2:])
        & (strength >= EVENT_HEIGHT * usual)
        & (strength > 0)
    )
    found = np.flatnonzero(is_peak)
    return np.sort(found[np.argsort(-strength[found], kind="stable")[:MAX_EVENTS]])


def onset(sound: np.ndarray, near: int, sampling_rate: int) -> float:
    """Return when sound begins near a sample, seconds: where it first has half of the height it has there."""
    reach = sampling_rate // 200
    low = max(0, near - reach)
    piece = np.abs(sound[low : near + reach])
    if not piece.size:
        return near / sampling_rate
    return (low + int(np.argmax(piece >= piece.max() / 2))) / sampling_rate

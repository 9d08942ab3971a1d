"""Where sound begins and ends: the bounds of its pauses, and how much of a soft beginning the noise covers.

A fricative drowns in noise that leaves its vowel audible, so that a sentence seems to begin a tenth of a second late.
The reference voice tells how much too late: it would drown as well.
"""

import numpy as np

from datamodules.preparation.alignment.features import SAMPLING_RATE

PAUSE_S = 0.12
"""Silence shorter than this is part of a word (the closure of a stop), longer is a pause."""
SNAP_S = 0.15
"""How far a start or end may move to the edge of a pause."""
SYLLABLE_S = 0.3
"""A start may move back so far: warping may skip a syllable in an echo. Not ahead, as into a pause after a comma."""
WINDOW_MS = 5
"""The loudness is a mean over this, odd."""
EDGE_HEIGHT, LEAST_HEIGHT_DB = 0.25, 4.0
"""Sound begins this far up from the quietest to the loudest, in decibels, and at least so much."""
HEIGHTS_DB = (0.0, LEAST_HEIGHT_DB, 2 * LEAST_HEIGHT_DB)
"""Where a soft beginning began is told by when sound rises by so much above its edge, by the median of these."""
RANGE_DB = 50.0
"""Nothing is quieter than this below the loudest, not even digital silence."""
BLOCK_MS = 60_000
NUM_TAPS = 257
MARGIN_MS = 20
LOUD = 0.9
"""The loudness of speech is this quantile over its milliseconds."""


def levels_db(sound: np.ndarray, taps: np.ndarray | None = None) -> np.ndarray:
    """Return the loudness of sound (samples,) in each millisecond (ms,), float32, decibels, after a filter `taps`."""
    samples_per_ms = SAMPLING_RATE // 1000
    num_ms = len(sound) // samples_per_ms
    power = np.empty(num_ms, np.float32)
    for first in range(0, num_ms, BLOCK_MS):
        last = min(first + BLOCK_MS, num_ms)
        block = filtered(sound, first * samples_per_ms, last * samples_per_ms, taps)
        power[first:last] = np.square(block).reshape(-1, samples_per_ms).mean(axis=1)
    smooth = np.convolve(power, np.full(WINDOW_MS, 1 / WINDOW_MS, np.float32), mode="same")
    return 10 * np.log10(smooth[:num_ms] + 1e-10)


def filtered(sound: np.ndarray, start: int, stop: int, taps: np.ndarray | None) -> np.ndarray:
    """Return samples `start` to `stop` of sound after a symmetric filter `taps` (odd,)."""
    if taps is None:
        return sound[start:stop]
    from scipy.signal import oaconvolve

    half = len(taps) // 2
    padding = (max(0, half - start), max(0, stop + half - len(sound)))
    return oaconvolve(np.pad(sound[max(0, start - half) : stop + half], padding), taps, mode="valid")


def whitening(noise: np.ndarray) -> np.ndarray:
    """Return the filter (taps,) that makes noise of that power (40,) per mel band white: what stands out is heard."""
    import librosa
    from scipy.signal import firwin2

    centres = librosa.mel_frequencies(n_mels=len(noise) + 2, fmin=0.0, fmax=SAMPLING_RATE / 2)[1:-1]
    gains = 1 / np.sqrt(noise)
    gains = np.concatenate([[0.0], gains, gains[-1:]]) / gains.max()
    frequencies = np.concatenate([[0.0], centres / (SAMPLING_RATE / 2), [1.0]])
    return firwin2(NUM_TAPS, frequencies, gains).astype(np.float32)


class Edges:
    """The bounds of each quiet run of at least PAUSE_S."""

    def __init__(self, sound: np.ndarray, noise: np.ndarray | None = None) -> None:
        self.taps = None if noise is None else whitening(noise)
        self.level_db = levels_db(sound, self.taps)
        self.floor_db, self.loud_db = np.quantile(self.level_db, (0.1, 0.95))
        self.floor_db = max(self.floor_db, self.loud_db - RANGE_DB)
        self.threshold_db = self.floor_db + max(LEAST_HEIGHT_DB, EDGE_HEIGHT * (self.loud_db - self.floor_db))
        quiet = self.level_db < self.threshold_db
        turns = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
        begins, ends = turns.reshape(-1, 2).T
        is_pause = ends - begins >= 1000 * PAUSE_S
        # A window hears a sound half its length before it begins, and after it ended.
        self.ends_s = (begins[is_pause] - WINDOW_MS // 2) / 1000
        self.starts_s = (ends[is_pause] + WINDOW_MS // 2) / 1000

    def speech(self, rate_hz: int) -> np.ndarray:
        """Return how much of each step (steps,), `rate_hz` a second, is between pauses, from 0 to 1."""
        num_ms = len(self.level_db)
        is_pause = np.zeros(num_ms + 1)
        # Bounds alternate, but a sound may begin loud or end so.
        begins = np.clip(np.rint(1000 * self.ends_s).astype(int), 0, num_ms)
        ends = np.clip(np.rint(1000 * self.starts_s).astype(int), 0, num_ms)
        np.add.at(is_pause, begins, 1)
        np.add.at(is_pause, ends, -1)
        step_ms = 1000 // rate_hz
        whole = num_ms // step_ms * step_ms
        return 1 - np.cumsum(is_pause)[:whole].reshape(-1, step_ms).mean(axis=1)

    def loudness(self, spoken: np.ndarray) -> np.ndarray:
        """Return the loudness (ms,) of dry speech (samples,) and MARGIN_MS around, as `as_said` takes it."""
        return levels_db(np.pad(spoken, MARGIN_MS * SAMPLING_RATE // 1000), self.taps)

    def length_s(self, loudness: np.ndarray) -> float:
        """Return how long that speech is, seconds."""
        return (len(loudness) - 2 * MARGIN_MS) / 1000

    def as_said(self, loudness: np.ndarray, start_s: float, end_s: float) -> np.ndarray:
        """Return that loudness (ms,), decibels, as it is where the speech is said from `start_s` to `end_s`."""
        place = self.level_db[max(0, int(1000 * start_s)) : max(1, int(1000 * end_s))]
        loud_db = np.quantile(place, LOUD) if len(place) else self.loud_db
        return loudness - np.quantile(loudness, LOUD) + loud_db

    def audible_s(self, said_db: np.ndarray) -> tuple[float, float]:
        """Return from when until when speech is heard that is as loud as `as_said` has it."""
        above = np.flatnonzero(said_db >= self.threshold_db)
        length_s = self.length_s(said_db)
        if not len(above):
            return 0.0, length_s
        first_s, last_s = (above[[0, -1]] + [WINDOW_MS // 2, 1 - WINDOW_MS // 2] - MARGIN_MS) / 1000
        return max(0.0, float(first_s)), min(length_s, float(last_s))

    def drowned_s(self, said_db: np.ndarray, begins_s: float, pace: float) -> float:
        """Return for how long speech, as loud as `as_said` has it, is said before sound begins at `begins_s`.

        At the edge itself the noise decides: all of a soft beginning is heard from a narrator who speaks it a little
        louder than the reference, and none of it from one who does a little softer. The steep rise to the vowel comes
        at the same time in both. `pace` is how long the speech lasts by its length when spoken.
        """
        rises = self.level_db[max(0, int(1000 * begins_s)) :][: len(said_db)]
        drowned = []
        for height_db in HEIGHTS_DB:
            heard, spoken = rises >= self.threshold_db + height_db, said_db >= self.threshold_db + height_db
            if heard.any() and spoken.any():
                spoken_s = max(0.0, (int(spoken.argmax()) + WINDOW_MS // 2 - MARGIN_MS) / 1000)
                drowned.append(pace * spoken_s - max(0, int(heard.argmax()) - WINDOW_MS // 2) / 1000)
        return max(0.0, float(np.median(drowned))) if drowned else 0.0

    def start_near(self, time_s: float) -> float | None:
        """Return where sound begins near `time_s`, or else shortly before, if it does."""
        near_s = nearest(self.starts_s, time_s, SNAP_S)
        if near_s is not None:
            return near_s
        return nearest(self.starts_s[self.starts_s <= time_s], time_s, SYLLABLE_S)

    def end_near(self, time_s: float) -> float | None:
        """Return where sound ends near `time_s`, if it does."""
        return nearest(self.ends_s, time_s, SNAP_S)


def nearest(times_s: np.ndarray, time_s: float, within_s: float) -> float | None:
    """Return the nearest of `times_s` (ascending) if there is one within `within_s`."""
    index = int(np.searchsorted(times_s, time_s))
    near = [
        float(other) for other in times_s[max(0, index - 1) : index + 1] if abs(other - time_s) <= within_s
    ]
    return min(near, key=lambda other: abs(other - time_s), default=None)

"""Alignment of subtitles with the sound: the cues are spoken, and what is spoken is sought in the sound.

Three steps, each finer: (1) the spoken cues, laid out as the subtitles say, are warped onto the sound with open ends,
stretch by stretch, so that no matrix is larger than a stretch; (2) each spoken cue alone is warped onto the sound near
the place found, with open ends; (3) its start and end snap to where sound begins after a pause and ends before one.
Warping is dtw-python's (Giorgino 2009, doi:10.18637/jss.v031.i07) over MFCC; a cue may be spoken from half to twice as
fast as in the sound.

Times are seconds; sound is a waveform (samples,), float32, 16 kHz.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from datamodules.preparation.subtitles import Cue

SAMPLING_RATE = 16_000
FRAMES_PER_S = 100
COARSE_FRAMES = 4
"""Frames that are averaged into one for the first step."""
GAP_QUANTILE = 0.02
"""A frame in a gap costs at most this quantile of the others' costs."""
PAUSE_S = 0.12
"""Silence shorter than this is part of a word (the closure of a stop), longer is a pause."""
SNAP_S = 0.15
"""How far a start or end may move to the edge of a pause."""
WINDOW_MS = 5
"""The loudness is a mean over this, odd."""
EDGE_HEIGHT = 0.25
"""Sound begins this far up from the quietest to the loudest, in decibels."""


class AlignmentError(ValueError):
    """Subtitles that do not belong to the sound."""


class Line(NamedTuple):
    """Time in the sound as a straight line over time in the subtitles: `offset_s + rate * time`."""

    offset_s: float
    rate: float

    def __call__(self, cues: list[Cue]) -> np.ndarray:
        """Return where the line expects the cues' starts (cues,), seconds."""
        return self.offset_s + self.rate * starts(cues)


@dataclass(frozen=True)
class Alignment:
    """Where cues are heard: `starts_s`, `ends_s` (cues,), and the line through the starts; `residuals_s` (cues,)."""

    starts_s: np.ndarray
    ends_s: np.ndarray
    line: Line
    residuals_s: np.ndarray

    @property
    def residual_ms(self) -> float:
        """The median distance of the starts from the line, milliseconds: jitter of the subtitles, or a bad match."""
        return 1000 * float(np.median(np.abs(self.residuals_s)))


class Aligner(ABC):
    """A method of alignment; subclasses are dataclasses."""

    @abstractmethod
    def __call__(self, sound: np.ndarray, cues: list[Cue]) -> Alignment:
        """Return where in the sound each cue is heard, or raise AlignmentError."""


@dataclass
class Speech(Aligner):
    """Find cues in the sound by speaking them: for any narrator, in a language that espeak-ng speaks."""

    voice: str = "en-us"
    """The language that the cues are spoken in, a voice of espeak-ng."""
    max_offset_s: float = 4.0
    """How far subtitles may be from the sound at first."""
    max_skew: float = 0.08
    """How much faster or slower subtitles may run; 24 against 25 frames per second is 0.042."""
    stretch_s: float = 60.0
    """How much of the subtitles is warped at once in the first step."""
    search_s: float = 0.5
    """How far around the place found first a cue is sought in the second step."""
    max_residual_ms: float = 300.0
    """Subtitles whose starts lie further than this from a straight line, in the median, are refused."""
    max_mismatch: float = 0.93
    """Subtitles are refused when the cues fit the sound no better than spoken backwards, which is 1; a good match has
    0.7, in 10 dB of noise 0.85."""

    def __call__(self, sound: np.ndarray, cues: list[Cue]) -> Alignment:
        """Return where in the sound each cue is heard.

        Raises:
            AlignmentError: the cues are not what is heard.
        """
        voices = [features(waveform) for waveform in self.speak(cues)]
        heard, edges = features(sound), Edges(sound)
        rough_s = self.place(cues, voices, heard)
        found = [self.find(voice, heard, near_s) for voice, near_s in zip(voices, rough_s, strict=True)]
        starts_s = np.array([edges.start_near(place.start_s) for place in found])
        ends_s = np.array([edges.end_near(place.end_s) for place in found])
        mismatch = float(np.median([place.mismatch for place in found]))
        alignment = aligned(cues, starts_s, np.maximum(ends_s, starts_s + 1 / FRAMES_PER_S))
        if alignment.residual_ms > self.max_residual_ms or mismatch > self.max_mismatch:
            raise AlignmentError(
                f"the cues are not what is heard: residual {alignment.residual_ms:.0f} ms, expected at most "
                f"{self.max_residual_ms:.0f}; mismatch {mismatch:.2f}, expected at most {self.max_mismatch:.2f}"
            )
        return alignment

    def speak(self, cues: list[Cue]) -> list[np.ndarray]:
        """Return each cue as the reference voice says it, waveforms (samples,)."""
        from datamodules.preparation.speech import MAX_CHARACTERS, Utterance, speak_many

        spoken = list(speak_many(Utterance(cue.text[:MAX_CHARACTERS], voice=self.voice) for cue in cues))
        return [np.pad(waveform, (0, max(0, SAMPLING_RATE // 10 - len(waveform)))) for waveform in spoken]

    def place(self, cues: list[Cue], voices: list[np.ndarray], heard: np.ndarray) -> np.ndarray:
        """Return roughly where each cue starts (cues,), seconds; `voices` and `heard` are features."""
        rough_s, offset_s = np.zeros(len(cues)), 0.0
        silence = heard[heard[:, 0] <= np.quantile(heard[:, 0], 0.1)].mean(axis=0)
        for stretch in stretches(cues, self.stretch_s):
            layout, begins, is_gap = lay_out(cues[stretch], voices[stretch], silence)
            first_s = cues[stretch.start].start_s + offset_s
            low = max(0, int((first_s - self.max_offset_s) * FRAMES_PER_S))
            high = int((first_s + self.max_offset_s) * FRAMES_PER_S + len(layout) * (1 + self.max_skew))
            path, _ = warp(coarse(layout), coarse(heard[low:high]), coarse(is_gap[:, None])[:, 0] > 0.5)
            rough_s[stretch] = (low + path[begins // COARSE_FRAMES] * COARSE_FRAMES) / FRAMES_PER_S
            offset_s = float(np.median(rough_s[stretch][-5:] - starts(cues[stretch])[-5:]))
        return rough_s

    def find(self, voice: np.ndarray, heard: np.ndarray, near_s: float) -> "Place":
        """Return where a spoken cue is heard near `near_s`; `voice` and `heard` are features."""
        low = max(0, min(int((near_s - self.search_s) * FRAMES_PER_S), len(heard) - len(voice)))
        window = heard[low : int((near_s + self.search_s) * FRAMES_PER_S + 1.5 * len(voice))]
        path, distance = warp(voice, window)
        _, distance_backwards = warp(voice[::-1], window)
        start_s, end_s = (low + path[[0, -1]] + [0, 1]) / FRAMES_PER_S
        return Place(start_s, end_s, distance / max(distance_backwards, 1e-9))


class Place(NamedTuple):
    """Where a spoken cue is heard, seconds, and its distance from that over the distance when spoken backwards."""

    start_s: float
    end_s: float
    mismatch: float


@dataclass
class Timestamps(Aligner):
    """Warp the times of the cues onto those of the frames, without listening: for comparison only.

    This is what the literature shows as alignment by DTW. It leaves a constant offset as it is, since no time tells
    what is heard at it.
    """

    frame_s: float = 0.04
    """From one frame to the next."""
    stretch_s: float = 60.0
    """How much of the subtitles is warped at once."""

    def __call__(self, sound: np.ndarray, cues: list[Cue]) -> Alignment:
        """Return the cues at the frames that their times were warped onto."""
        ends = np.array([cue.end_s for cue in cues])
        parts = list(stretches(cues, self.stretch_s))
        starts_s = np.concatenate([self.warp_times(starts(cues)[part]) for part in parts])
        ends_s = np.concatenate([self.warp_times(ends[part]) for part in parts])
        return aligned(cues, starts_s, np.maximum(ends_s, starts_s + self.frame_s))

    def warp_times(self, times_s: np.ndarray) -> np.ndarray:
        """Return for each time (cues,) the nearest of the frames that it was warped onto, seconds."""
        from dtw import asymmetric, dtw

        first, last = int(times_s.min() / self.frame_s), int(times_s.max() / self.frame_s) + 2
        frames_s = np.arange(first, last + len(times_s)) * self.frame_s
        path = dtw(
            frames_s[:, None], times_s[:, None], step_pattern=asymmetric, open_begin=True, open_end=True
        )
        matched = [frames_s[path.index1[path.index2 == cue]] for cue in range(len(times_s))]
        return np.array(
            [nearest(frames, time_s, np.inf) for frames, time_s in zip(matched, times_s, strict=True)]
        )


def features(waveform: np.ndarray) -> np.ndarray:
    """Return MFCC (frames, 13) of a waveform, 100 frames per second; its loud part has zero mean and unit variance."""
    import librosa

    mfcc = librosa.feature.mfcc(
        y=waveform,
        sr=SAMPLING_RATE,
        n_mfcc=13,
        n_fft=400,
        hop_length=SAMPLING_RATE // FRAMES_PER_S,
        n_mels=40,
    ).T
    loud = mfcc[mfcc[:, 0] >= (mfcc[:, 0].max() + mfcc[:, 0].min()) / 2]
    return (mfcc - loud.mean(axis=0)) / (loud.std(axis=0) + 1e-6)


def starts(cues: list[Cue]) -> np.ndarray:
    """Return the cues' own starts (cues,), seconds."""
    return np.array([cue.start_s for cue in cues])


def stretches(cues: list[Cue], length_s: float) -> Iterator[slice]:
    """Yield runs of cues that each cover at most `length_s`, or a single cue."""
    begin = 0
    for index in range(1, len(cues) + 1):
        if index == len(cues) or cues[index].end_s - cues[begin].start_s > length_s:
            yield slice(begin, index)
            begin = index


def lay_out(
    cues: list[Cue], voices: list[np.ndarray], silence: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return spoken cues (frames, 13) as the subtitles say with silence between, where each begins, and what is gap.

    A cue that takes longer than there is time before the next moves the next, as no narrator says two at once.
    """
    laid, begins, is_gap, clock = [], [], [], 0
    for cue, voice in zip(cues, voices, strict=True):
        gap = max(0, round((cue.start_s - cues[0].start_s) * FRAMES_PER_S) - clock)
        laid += [np.tile(silence, (gap, 1)), voice]
        is_gap += [np.ones(gap), np.zeros(len(voice))]
        begins.append(clock + gap)
        clock += gap + len(voice)
    return np.concatenate(laid), np.array(begins), np.concatenate(is_gap)


def coarse(frames: np.ndarray) -> np.ndarray:
    """Return features (frames, 13) averaged over COARSE_FRAMES frames each."""
    whole = len(frames) // COARSE_FRAMES * COARSE_FRAMES
    return frames[:whole].reshape(-1, COARSE_FRAMES, frames.shape[1]).mean(axis=1)


def warp(
    query: np.ndarray, reference: np.ndarray, is_gap: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Return for each frame of the query that of the reference it is heard in, and their mean distance.

    Both ends of the reference are open; the query runs from half to twice as fast. Where `is_gap`, anything may be
    heard at the price of a very good match: what is said there lacks a subtitle.

    Raises:
        AlignmentError: the reference is less than half as long as the query.
    """
    from dtw import asymmetricP05, dtw
    from scipy.spatial.distance import cdist

    if len(reference) < len(query) // 2 + 1:
        raise AlignmentError("the sound is too short for the cues")
    cost = cdist(query, reference)
    if is_gap is not None:
        cost[is_gap] = np.minimum(cost[is_gap], np.quantile(cost[~is_gap], GAP_QUANTILE))
    path = dtw(cost, step_pattern=asymmetricP05, open_begin=True, open_end=True)
    return np.interp(np.arange(len(query)), path.index1, path.index2), float(path.normalizedDistance)


class Edges:
    """Where sound begins and ends: the bounds of each quiet run of at least PAUSE_S."""

    def __init__(self, sound: np.ndarray) -> None:
        samples_per_ms = SAMPLING_RATE // 1000
        whole = sound[: len(sound) // samples_per_ms * samples_per_ms]
        power = np.square(whole).reshape(-1, samples_per_ms).mean(axis=1)
        level_db = 10 * np.log10(np.convolve(power, np.full(WINDOW_MS, 1 / WINDOW_MS), mode="same") + 1e-10)
        floor_db, loud_db = np.quantile(level_db, (0.1, 0.95))
        quiet = level_db < floor_db + max(6.0, EDGE_HEIGHT * (loud_db - floor_db))
        turns = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
        begins, ends = turns.reshape(-1, 2).T
        is_pause = ends - begins >= 1000 * PAUSE_S
        # A window hears a sound half its length before it begins, and after it ended.
        self.ends_s = (begins[is_pause] - WINDOW_MS // 2) / 1000
        self.starts_s = (ends[is_pause] + WINDOW_MS // 2) / 1000

    def start_near(self, time_s: float) -> float:
        """Return where sound begins near `time_s`, or `time_s` if it does not."""
        return nearest(self.starts_s, time_s, SNAP_S)

    def end_near(self, time_s: float) -> float:
        """Return where sound ends near `time_s`, or `time_s` if it does not."""
        return nearest(self.ends_s, time_s, SNAP_S)


def nearest(times_s: np.ndarray, time_s: float, within_s: float) -> float:
    """Return the nearest of `times_s` if there is one within `within_s`, else `time_s` itself."""
    near = times_s[np.abs(times_s - time_s) <= within_s]
    return float(min(near, key=lambda other: abs(other - time_s), default=time_s))


def fit(cues: list[Cue], starts_s: np.ndarray) -> Line:
    """Return the line through the starts, indifferent to outliers (Theil-Sen, on at most 500 cues)."""
    from scipy.stats import theilslopes

    given_s, step = starts(cues), -(-len(cues) // 500)
    rate = float(theilslopes(starts_s[::step], given_s[::step])[0]) if len(set(given_s)) > 2 else 1.0
    return Line(float(np.median(starts_s - rate * given_s)), rate)


def aligned(cues: list[Cue], starts_s: np.ndarray, ends_s: np.ndarray) -> Alignment:
    """Return the alignment with its line and what that leaves."""
    line = fit(cues, starts_s)
    return Alignment(starts_s, ends_s, line, starts_s - line(cues))

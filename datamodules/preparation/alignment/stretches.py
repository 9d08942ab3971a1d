"""Where cues are to be expected: stretches of subtitles vote for the line they lie on, one after the other.

No matrix is larger than a cue by what it may be heard in, and a jump, as after a cut, moves only what follows it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from datamodules.preparation.alignment.aligner import Line, fit, starts
from datamodules.preparation.alignment.features import FRAMES_PER_S, distances
from datamodules.preparation.alignment.voting import STEP_S, Ballot, ballot, best_near, elect, lenient, rates
from datamodules.preparation.alignment.warp import warp
from datamodules.preparation.subtitles import Cue

COARSE_FRAMES = round(STEP_S * FRAMES_PER_S)
"""Frames that are averaged into one."""
STANDS_APART = 1.3
"""A stretch keeps its own line if that has so many times the votes of the line of the whole, and one more."""
NUM_NEIGHBOURS = 15
"""The expected place is refined by so many cues before and after."""
LEAST_NEIGHBOURS = 4


@dataclass(frozen=True)
class Bounds:
    """How subtitles may be wrong."""

    max_offset_s: float
    max_skew: float
    jitter_s: float
    stretch_s: float


def expected_starts(
    cues: list[Cue], voices: list[np.ndarray], heard: np.ndarray, bounds: Bounds
) -> tuple[np.ndarray, np.ndarray]:
    """Return where the cues are to be expected (cues,), seconds, and which line each lies on (cues,), its number.

    `voices` and `heard` are features (frames, 13).
    """
    heard = coarse(heard)
    given_s, rough_s = starts(cues), np.zeros(len(cues))
    here, rate = (0.0, 0.0), 1.0  # a time in the subtitles and in the sound
    lines, ballots, all_cast = [], [], []
    parts = list(stretches(cues, bounds.stretch_s))
    for part in parts:
        tried = rates(rate, bounds.max_skew)
        cast = [
            listen_for(voice, heard, time_s, reach(time_s, here, tried, bounds))
            for voice, time_s in zip(voices[part], given_s[part], strict=True)
        ]
        # A cue at 0 may have been cut off there and says little of the line.
        soft = [lenient(one, bounds.jitter_s) for one in cast]
        voters = [one for one in soft if one.time_s > 0] or soft
        shift_s, rate = elect(voters, tried, here, bounds.max_offset_s)
        line = Line(here[1] + shift_s - rate * here[0], rate)
        rough_s[part] = [best_near(one, float(line.at(one.time_s)), bounds.jitter_s) for one in cast]
        last_s = float(given_s[part][-1])
        here = (last_s, float(line.at(last_s)) + float(np.median((rough_s - line.at(given_s))[part][-5:])))
        lines.append(line)
        ballots.append(voters)
        all_cast.append(soft)
    whole = fit(given_s, rough_s)
    # Number 0 is the line of the whole.
    chosen = [
        (number, line) if support(line, votes) > STANDS_APART * support(whole, votes) + 1 else (0, whole)
        for number, (line, votes) in enumerate(zip(lines, ballots, strict=True), 1)
    ]
    line_of = np.zeros(len(cues), np.int64)
    for index, part in enumerate(parts):
        near = [chosen[index], *chosen[max(0, index - 1) : index + 2]]
        for cue, one in zip(range(part.start, part.stop), all_cast[index], strict=True):
            line_of[cue], line = best_line(near, one)
            rough_s[cue] = line.at(one.time_s)
    return rough_s, line_of


def best_line(lines: list[tuple[int, Line]], one: Ballot) -> tuple[int, Line]:
    """Return the numbered line that a cue votes for: the first, unless another is clearly better.

    A jump seldom falls between two stretches.
    """
    evidence = [float(one.at(float(line.at(one.time_s)), 1)[0]) for _, line in lines]
    evidence[0] += 1
    return lines[int(np.argmax(evidence))]


def stretches(cues: list[Cue], length_s: float) -> Iterator[slice]:
    """Yield runs of cues that each cover at most `length_s`, or a single cue."""
    begin = 0
    for index in range(1, len(cues) + 1):
        if index == len(cues) or cues[index].end_s - cues[begin].start_s > length_s:
            yield slice(begin, index)
            begin = index


def reach(time_s: float, here: tuple[float, float], tried: np.ndarray, bounds: Bounds) -> tuple[float, float]:
    """Return from when until when, seconds, a cue at `time_s` may begin in the sound."""
    margin_s = bounds.max_offset_s + 3 * bounds.jitter_s
    ahead = (time_s - here[0]) * np.array([tried.min(), tried.max()])
    return here[1] + float(ahead.min()) - margin_s, here[1] + float(ahead.max()) + margin_s


def listen_for(voice: np.ndarray, heard: np.ndarray, time_s: float, window_s: tuple[float, float]) -> Ballot:
    """Return what a spoken cue says of its place; `heard` is coarse."""
    spoken = coarse(voice)
    low = max(0, min(int(window_s[0] / STEP_S), len(heard) - len(spoken)))
    high = max(low, int(window_s[1] / STEP_S)) + 2 * len(spoken)
    warping = warp(distances(spoken, heard[low:high]))
    return ballot(time_s, low * STEP_S, warping.distances, warping.begins, length_s=len(voice) / FRAMES_PER_S)


def coarse(frames: np.ndarray) -> np.ndarray:
    """Return features (frames, 13) averaged over COARSE_FRAMES frames each."""
    whole = len(frames) // COARSE_FRAMES * COARSE_FRAMES
    return frames[:whole].reshape(-1, COARSE_FRAMES, frames.shape[1]).mean(axis=1)


def support(line: Line, voters: list[Ballot]) -> float:
    """Return the votes for a line."""
    return sum(float(one.at(float(line.at(one.time_s)), 1)[0]) for one in voters)


def refined(
    given_s: np.ndarray, found_s: np.ndarray, is_sure: np.ndarray, expected_s: np.ndarray, line_of: np.ndarray
) -> np.ndarray:
    """Return where cues are expected (cues,) by the line through those near them that were surely found.

    Only cues of one line, by its number in `line_of` (cues,), tell of each other.
    """
    better_s = expected_s.copy()
    for number in np.unique(line_of):
        own = np.flatnonzero(line_of == number)
        sure = own[is_sure[own] & (given_s[own] > 0)]
        if len(sure) < LEAST_NEIGHBOURS:
            continue
        for index, middle in zip(own, np.searchsorted(sure, own), strict=True):
            near = sure[max(0, middle - NUM_NEIGHBOURS) : middle + NUM_NEIGHBOURS]
            better_s[index] = fit(given_s[near], found_s[near]).at(given_s[index])
    return better_s

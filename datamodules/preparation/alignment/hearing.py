"""Where a spoken cue may be heard, and of these places those that fit best and keep the order of the cues."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from datamodules.preparation.alignment.features import FRAMES_PER_S, distances
from datamodules.preparation.alignment.ordering import in_order
from datamodules.preparation.alignment.warp import warp

SHARPNESS = 20.0
"""Turns how much better than by chance a cue fits into the price of a place."""
CHANCE = 5.0
"""A clip whose cues fit so much better than by chance in the median has a mismatch of 1 / e."""
ELSEWHERE = 2.0
"""How much it counts against a clip that its cues fit better elsewhere than where line and order have them."""
TURNED_PRICE = 0.3
PACE_DEVIATION = 0.12
"""How far the pace of a sentence may be from the narrator's usual: a standard deviation of its logarithm."""
AWAY_PRICE, NEAR_ONSET, REACH_OF_ONSET = 1.5, 15, 30
"""What it costs to begin further from an onset than so many frames; the line's word is taken at one within reach."""
NUM_PLACES = 12
SAME_BEGIN, SAME_END = 4, 6
"""Places nearer to each other than this, frames, are one."""
NOT_FOUND = -1.0
"""The price of taking the line's word for a cue; one that is heard fits better than this."""


class Place(NamedTuple):
    """Where a spoken cue may be heard, frames, and what speaks against it."""

    begin: int
    end: int
    price: float
    candidate: int | None
    """Which of a hearing's candidates it is; None is the line's word."""
    is_heard: bool


@dataclass(frozen=True)
class Hearing:
    """A spoken cue, `num_frames` long, warped onto the sound near where it is expected.

    It is warped from its first frame to its last, which gives the best begin for every end, and the other way round,
    which gives the best end for every begin: two sentences that end alike have the same end.
    """

    window: slice
    """The frames of the sound that it is warped onto."""
    num_frames: int
    begins: np.ndarray
    """(candidates,) frames"""
    ends: np.ndarray
    """(candidates,) frames"""
    fit: np.ndarray
    """(candidates,) 0 is by chance, less is better."""

    def path(self, candidate: int, voice: np.ndarray, heard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which frame of the cue (cells,) is heard in which of the sound (cells,).

        It is warped again: a thousand cues' steps would fill half a gigabyte.
        """
        cost = distances(voice, heard[self.window])
        rows, width = len(voice), cost.shape[1]
        if candidate < width:
            i, j = warp(cost).path(candidate)
        else:
            i, j = warp(cost[::-1, ::-1]).path(candidate - width)
            i, j = rows - 1 - i[::-1], width - 1 - j[::-1]
        return i, j + self.window.start


def hear(voice: np.ndarray, heard: np.ndarray, window: slice) -> Hearing:
    """Return where in a window of the sound a cue may be heard; `voice` and `heard` are features (frames, 13)."""
    cost = distances(voice, heard[window])
    warping, turned, backwards = warp(cost), warp(cost[::-1, ::-1]), warp(cost[::-1])
    low, columns = window.start, np.arange(cost.shape[1])
    by_chance = float(np.median(backwards.distances[np.isfinite(backwards.distances)]))
    found = np.concatenate([warping.distances, turned.distances])
    price = np.repeat([0.0, TURNED_PRICE], len(columns))
    return Hearing(
        window,
        len(voice),
        begins=low + np.concatenate([warping.begins, columns[::-1]]),
        ends=low + np.concatenate([columns, len(columns) - 1 - turned.begins]) + 1,
        fit=price + SHARPNESS * np.sqrt(len(voice) / FRAMES_PER_S) * (found / max(by_chance, 1e-9) - 1),
    )


def places(
    hearing: Hearing,
    expected: float,
    deviation: tuple[float, float],
    pace: float | None,
    onsets: np.ndarray,
) -> list[Place]:
    """Return the likeliest places of a cue, and last the line's word for it.

    `expected` is where the line has it, frames; `deviation` how far it may be from that when it is earlier and when it
    is later, standard deviations, frames; `pace` how long sentences last in the sound by their length when spoken;
    `onsets` (onsets,), ascending, is where sound begins after a pause, frames.
    """
    off = hearing.begins - expected
    price = hearing.fit + 0.5 * np.square(off / np.where(off < 0, *deviation))
    price = price + AWAY_PRICE * (gap(onsets, hearing.begins) > NEAR_ONSET)
    if pace:
        lengths = np.maximum(1, hearing.ends - hearing.begins)
        price = price + 0.5 * np.square(np.log(lengths / (hearing.num_frames * pace)) / PACE_DEVIATION)
    offered: list[Place] = []
    for index in np.argsort(price):
        begin, end = int(hearing.begins[index]), int(hearing.ends[index])
        if len(offered) == NUM_PLACES or not np.isfinite(price[index]):
            break
        if all(abs(begin - one.begin) >= SAME_BEGIN or abs(end - one.end) >= SAME_END for one in offered):
            offered.append(
                Place(begin, end, float(price[index]), int(index), bool(hearing.fit[index] < NOT_FOUND))
            )
    begin = max(0, round(expected))
    if len(onsets) and gap(onsets, np.array([begin]))[0] < REACH_OF_ONSET:
        begin = int(onsets[np.abs(onsets - begin).argmin()])
    offered.append(Place(begin, begin + round(hearing.num_frames * (pace or 1.0)), NOT_FOUND, None, False))
    return offered


def gap(onsets: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Return how far each begin (places,) is from the nearest of the onsets, ascending; infinite without any."""
    padded = np.concatenate([[-np.inf], onsets, [np.inf]])
    after = np.searchsorted(padded, begins)
    return np.minimum(padded[after] - begins, begins - padded[after - 1])


def choose(
    hearings: list[Hearing],
    expected: np.ndarray,
    deviations: list[tuple[float, float]],
    pace: float | None,
    onsets: np.ndarray,
) -> list[Place]:
    """Return where each cue is heard; `expected` (cues,) and the rest are as `places` takes them."""
    offered = [
        places(hearing, place, deviation, pace, onsets)
        for hearing, place, deviation in zip(hearings, expected, deviations, strict=True)
    ]
    taken = in_order([[(one.begin, one.end, one.price) for one in choice] for choice in offered])
    return [choice[index] for choice, index in zip(offered, taken, strict=True)]


def mismatch(found: list[Place], hearings: list[Hearing]) -> float:
    """Return how badly the cues fit what is heard where they were found: near 0 for what is said, 1 is by chance.

    What is said is found by each cue alone where the line has it, other words are found anywhere: that tells them
    apart in noise, where the right words, too, fit little better than by chance.
    """
    fits = np.array(
        [
            0.0 if place.candidate is None else hearing.fit[place.candidate]
            for place, hearing in zip(found, hearings, strict=True)
        ]
    )
    best = np.array([min(0.0, float(hearing.fit.min())) for hearing in hearings])
    evidence = float(np.median(fits) + ELSEWHERE * np.mean(fits - best))
    return min(1.0, float(np.exp(evidence / CHANCE)))


def usual_pace(found: list[Place], hearings: list[Hearing]) -> float | None:
    """Return how long sentences last in the sound by their length when spoken, or None if none is heard."""
    paces = [
        (place.end - place.begin) / hearing.num_frames
        for place, hearing in zip(found, hearings, strict=True)
        if place.is_heard
    ]
    return float(np.median(paces)) if paces else None

"""Offset and rate by vote: every cue says where it might be heard, and the line with most votes is taken.

A Hough transform (Duda and Hart 1972) over rates and offsets. A look-alike of one sentence finds no support in the
others, which is why this holds in noise where each cue by itself does not.
"""

from dataclasses import dataclass

import numpy as np

from datamodules.preparation.alignment.aligner import frame_rate_mistakes

STEP_S = 0.04
"""Places are told apart in steps of this; features are averaged over as much."""
RATE_STEP = 0.004
MAX_EVIDENCE = 4.0
"""What one cue can say at most, so that no cue outvotes three others."""
LEAST_RATE_PRICE, RATE_PRICE, OFFSET_PRICE = 0.15, 4.0, 0.1
"""What any other rate than expected costs, more for each unit, and each second of offset."""


@dataclass(frozen=True)
class Ballot:
    """What one cue says of its place: evidence (places,) that it starts at `first_s`, `first_s + STEP_S`, ..."""

    time_s: float
    """Where the subtitles have it."""
    first_s: float
    evidence: np.ndarray

    def at(self, place_s: float, num_places: int) -> np.ndarray:
        """Return the evidence (num_places,) from `place_s` on; outside of what is known it is 0."""
        first = round((place_s - self.first_s) / STEP_S)
        found = np.zeros(num_places)
        low, high = max(0, first), min(len(self.evidence), first + num_places)
        if low < high:
            found[low - first : high - first] = self.evidence[low:high]
        return found


def ballot(
    time_s: float, first_s: float, distances: np.ndarray, begins: np.ndarray, length_s: float
) -> Ballot:
    """Return what a cue says that was warped, in steps of STEP_S, onto the sound from `first_s` on.

    `distances` and `begins` (places,) are a `Warping`'s. A good fit is one far below the median; a longer cue is
    more certain.
    """
    reached = np.isfinite(distances)
    nearest = np.full(len(distances), np.inf)
    np.minimum.at(nearest, begins[reached], distances[reached])
    usual = float(np.median(distances[reached])) if reached.any() else 0.0
    evidence = np.clip((usual - nearest) / max(usual, 1e-9) * 10 * np.sqrt(length_s), 0, MAX_EVIDENCE)
    return Ballot(time_s, first_s, evidence)


def lenient(one: Ballot, jitter_s: float) -> Ballot:
    """Return a ballot with evidence as seen with a jitter: the best near each place, less the price of the distance."""
    reach = round(3 * jitter_s / STEP_S)
    length = len(one.evidence)
    padded = np.pad(one.evidence, reach)
    shifted = [
        padded[reach + shift : reach + shift + length] - jitter_price(shift * STEP_S, jitter_s)
        for shift in range(-reach, reach + 1)
    ]
    return Ballot(one.time_s, one.first_s, np.maximum(0, np.max(shifted, axis=0)))


def best_near(one: Ballot, place_s: float, jitter_s: float) -> float:
    """Return the likeliest start of a cue that a line has at `place_s`, seconds."""
    reach = round(3 * jitter_s / STEP_S)
    shifts_s = STEP_S * np.arange(-reach, reach + 1)
    evidence = one.at(place_s - reach * STEP_S, len(shifts_s)) - jitter_price(shifts_s, jitter_s)
    return place_s + float(shifts_s[np.argmax(evidence)])


def jitter_price(off_s: float | np.ndarray, jitter_s: float) -> float | np.ndarray:
    """Return what a start that is `off_s` from the line costs."""
    return 0.5 * np.square(off_s / jitter_s)


def rates(expected: float, max_skew: float) -> np.ndarray:
    """Return the rates that are tried: the expected one, those within `max_skew` of 1, mistaken frame rates."""
    num_steps = round(max_skew / RATE_STEP)
    near = 1 + RATE_STEP * np.arange(-num_steps, num_steps + 1)
    return np.array([expected, *near, *frame_rate_mistakes()])


def elect(
    ballots: list[Ballot], tried: np.ndarray, around: tuple[float, float], max_offset_s: float
) -> tuple[float, float]:
    """Return the shift, seconds, and the rate of the line with most votes.

    The line is `around[1] + shift + rate * (time - around[0])`; shifts up to `max_offset_s` are tried, and the rates
    `tried`, of which the first is expected.
    """
    time_s, place_s = around
    num_places = 2 * round(max_offset_s / STEP_S) + 1
    shifts = STEP_S * (np.arange(num_places) - num_places // 2)
    best, most = (0.0, float(tried[0])), -np.inf
    for index, rate in enumerate(tried):
        votes = -OFFSET_PRICE * np.abs(shifts)
        if index:
            votes -= LEAST_RATE_PRICE + RATE_PRICE * abs(rate - tried[0])
        for one in ballots:
            votes += one.at(place_s + shifts[0] + rate * (one.time_s - time_s), num_places)
        winner = int(np.argmax(votes))
        if votes[winner] > most:
            best, most = (float(shifts[winner]), float(rate)), votes[winner]
    return best

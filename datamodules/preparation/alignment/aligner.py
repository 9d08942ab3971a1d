"""What a method of alignment takes and returns, and the straight line that offset and rate are read from.

Times are seconds; sound is a waveform (samples,), float32, 16 kHz.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from itertools import permutations
from typing import NamedTuple

import numpy as np

from datamodules.preparation.subtitles import Cue

FRAME_RATES = (Fraction(24000, 1001), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30))
"""Frames per second of film, PAL and NTSC, which subtitles are mistaken between."""
MAX_CUES_FOR_LINE = 500
LEAST_SAMPLES = 3200


class AlignmentError(ValueError):
    """Subtitles that do not belong to the sound."""


class Line(NamedTuple):
    """Time in the sound as a straight line over time in the subtitles: `offset_s + rate * time`."""

    offset_s: float
    rate: float

    def at(self, times_s: np.ndarray) -> np.ndarray:
        """Return where the line expects what the subtitles have at `times_s`, seconds."""
        return self.offset_s + self.rate * times_s


@dataclass(frozen=True)
class Alignment:
    """Where cues are heard: `starts_s`, `ends_s` (cues,), and the line through the starts.

    `residuals_s` (cues,) is how far each start is from the line, or from that of its part where the sound was cut.
    """

    starts_s: np.ndarray
    ends_s: np.ndarray
    line: Line
    residuals_s: np.ndarray
    mismatch: float | None = None
    """How badly the cues fit what is heard, by the method's own measure: 0 is as good as can be, 1 is by chance."""

    @property
    def residual_ms(self) -> float:
        """The median distance of the starts from the line, milliseconds: jitter of the subtitles, or a bad match."""
        return 1000 * float(np.median(np.abs(self.residuals_s)))


class Aligner(ABC):
    """A method of alignment; subclasses are dataclasses."""

    def check(self) -> None:  # noqa: B027 - most methods need nothing
        """Refuse, before any work, what this method cannot do here."""

    @abstractmethod
    def __call__(self, sound: np.ndarray, cues: list[Cue]) -> Alignment:
        """Return where in the sound each cue is heard, or raise AlignmentError."""


def starts(cues: list[Cue]) -> np.ndarray:
    """Return the cues' own starts (cues,), seconds."""
    return np.array([cue.start_s for cue in cues])


def ends(cues: list[Cue]) -> np.ndarray:
    """Return the cues' own ends (cues,), seconds."""
    return np.array([cue.end_s for cue in cues])


def require_sound(sound: np.ndarray) -> None:
    """Refuse a sound that is shorter than any sentence.

    Raises:
        AlignmentError: it is.
    """
    if len(sound) < LEAST_SAMPLES:
        raise AlignmentError(
            f"the sound is too short: {len(sound)} samples, expected at least {LEAST_SAMPLES}"
        )


def frame_rate_mistakes() -> list[float]:
    """Return the rates at which subtitles run that were made for another frame rate."""
    return sorted({float(right / wrong) for right, wrong in permutations(FRAME_RATES, 2)})


def fit(given_s: np.ndarray, starts_s: np.ndarray) -> Line:
    """Return the line through the starts, indifferent to outliers (Theil-Sen, on at most 500 cues).

    Cues at 0 are left out where that leaves two: they may have been cut off there.
    """
    from scipy.stats import theilslopes

    free = given_s > 0
    if len(set(given_s[free])) > 1:
        given_s, starts_s = given_s[free], starts_s[free]
    step = -(-len(given_s) // MAX_CUES_FOR_LINE)
    rate = float(theilslopes(starts_s[::step], given_s[::step])[0]) if len(set(given_s[::step])) > 2 else 1.0
    return Line(float(np.median(starts_s - rate * given_s)), rate)


def aligned(
    cues: list[Cue],
    bounds_s: tuple[np.ndarray, np.ndarray],
    mismatch: float | None = None,
    line_of: np.ndarray | None = None,
) -> Alignment:
    """Return the alignment with starts and ends `bounds_s` (cues,) each, its line, and what that leaves.

    Where the sound was cut, cues lie on several lines: `line_of` (cues,) is the number of each one's.
    """
    given_s, starts_s = starts(cues), bounds_s[0]
    numbers = np.zeros(len(cues), np.int64) if line_of is None else line_of
    residuals_s = np.zeros(len(cues))
    for number in np.unique(numbers):
        own = numbers == number
        residuals_s[own] = starts_s[own] - fit(given_s[own], starts_s[own]).at(given_s[own])
    return Alignment(*bounds_s, fit(given_s, starts_s), residuals_s, mismatch)

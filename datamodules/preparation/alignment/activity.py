"""Alignment by speech activity: when somebody speaks is laid over when the subtitles say so. For any language.

Offset and rate are those of the highest correlation, first roughly, over all rates, by FFT, then finely; then each
start and end snaps to a bound of a pause. What is said is not listened to: where sentences come at an even pace, or
many lack a subtitle, a wrong offset may fit as well.
"""

from dataclasses import dataclass

import numpy as np

from datamodules.preparation.alignment.aligner import (
    Aligner,
    Alignment,
    AlignmentError,
    Line,
    aligned,
    ends,
    frame_rate_mistakes,
    require_sound,
    starts,
)
from datamodules.preparation.alignment.edges import Edges, nearest
from datamodules.preparation.alignment.features import listen, mel_power
from datamodules.preparation.subtitles import Cue

COARSE_HZ, FINE_HZ = 10, 50
TOLERANCE_S = 0.2
"""Rates are tried so densely that the last cue moves by no more than this from one to the next."""
LEAST_LENGTH_S = 0.02


@dataclass
class Activity(Aligner):
    """Find offset and rate by when somebody speaks, then snap to pauses: for any language, and for none."""

    max_offset_s: float = 4.0
    """How far subtitles may be from the sound at first."""
    max_skew: float = 0.08
    """How much faster or slower subtitles may run; mistaken frame rates are tried in any case."""
    snap_s: float = 0.4
    """How far a start or end may move to the bound of a pause."""
    max_residual_ms: float = 300.0
    """Subtitles whose starts lie further than this from a straight line, in the median, are refused."""
    max_mismatch: float = 0.8
    """Subtitles are refused when their correlation with the sound is lower than 1 less this."""

    def __call__(self, sound: np.ndarray, cues: list[Cue]) -> Alignment:
        """Return where the cues fall.

        Raises:
            AlignmentError: speech and subtitles hardly ever coincide.
        """
        require_sound(sound)
        edges = Edges(sound, listen(mel_power(sound)).noise)
        line, correlation = self.search(
            edges.speech(COARSE_HZ), edges.speech(FINE_HZ), starts(cues), ends(cues)
        )
        expected = line.at(np.stack([starts(cues), ends(cues)]))
        starts_s = self.snapped(edges.starts_s, expected[0])
        ends_s = self.snapped(edges.ends_s, expected[1])
        # A cue at 0 may have been cut off there: its sentence begins at the last pause before its end.
        for index in np.flatnonzero(starts(cues) <= 0):
            before = edges.starts_s[edges.starts_s < min(ends_s[index], starts_s[index])]
            starts_s[index] = before[-1] if len(before) else starts_s[index]
        ends_s = np.maximum(ends_s, starts_s + LEAST_LENGTH_S)
        alignment = aligned(cues, (starts_s, ends_s), 1 - correlation)
        if alignment.residual_ms > self.max_residual_ms or 1 - correlation > self.max_mismatch:
            raise AlignmentError(
                f"speech is not where the subtitles are: residual {alignment.residual_ms:.0f} ms, expected at most "
                f"{self.max_residual_ms:.0f}; mismatch {1 - correlation:.2f}, expected at most {self.max_mismatch:.2f}"
            )
        return alignment

    def search(
        self, coarse: np.ndarray, fine: np.ndarray, starts_s: np.ndarray, ends_s: np.ndarray
    ) -> tuple[Line, float]:
        """Return the line of the highest correlation, and that; `coarse` and `fine` are activity (steps,)."""
        length_s = max(float(ends_s.max()), 1.0)
        rough = self.best(coarse, COARSE_HZ, starts_s, ends_s, self.rates(length_s), (0.0, self.max_offset_s))
        step = TOLERANCE_S / length_s
        near = rough[0].rate + step * np.linspace(-1, 1, 11)
        around = (rough[0].offset_s, 3 / COARSE_HZ + TOLERANCE_S)
        return self.best(fine, FINE_HZ, starts_s, ends_s, near, around)

    def rates(self, length_s: float) -> np.ndarray:
        """Return the rates that are tried on subtitles of a length: 1 first, as it wins if others are no better."""
        num_steps = int(np.ceil(self.max_skew * length_s / TOLERANCE_S))
        return np.array(
            [
                1.0,
                *np.linspace(1 - self.max_skew, 1 + self.max_skew, 2 * num_steps + 1),
                *frame_rate_mistakes(),
            ]
        )

    def best(
        self,
        activity: np.ndarray,
        rate_hz: int,
        starts_s: np.ndarray,
        ends_s: np.ndarray,
        rates: np.ndarray,
        offsets: tuple[float, float],
    ) -> tuple[Line, float]:
        """Return the best line with an offset at most `offsets[1]` from `offsets[0]`, and its correlation."""
        from scipy.fft import irfft, next_fast_len, rfft

        # Longer than both together, so that nothing wraps around.
        reach = int((ends_s.max() * rates.max() + abs(offsets[0]) + offsets[1]) * rate_hz) + 2
        size = next_fast_len(len(activity) + reach, real=True)
        centred = activity - activity.mean()
        spectrum, energy = rfft(centred, size), np.square(centred).sum()
        middle, half = round(offsets[0] * rate_hz), int(offsets[1] * rate_hz)
        shifts = np.arange(middle - half, middle + half + 1)
        best, highest = Line(offsets[0], float(rates[0])), -1.0
        for rate in rates:
            mask = mask_of(starts_s * rate * rate_hz, ends_s * rate * rate_hz, reach)
            variance = mask.sum() * (1 - mask.sum() / max(len(activity), mask.sum() + 1))
            found = irfft(spectrum * np.conj(rfft(mask, size)), size)[shifts % size]
            found = found / np.sqrt(max(energy * variance, 1e-9))
            winner = int(found.argmax())
            if found[winner] > highest + 1e-6:
                best, highest = Line(float(shifts[winner]) / rate_hz, float(rate)), float(found[winner])
        return best, highest

    def snapped(self, bounds_s: np.ndarray, times_s: np.ndarray) -> np.ndarray:
        """Return times (cues,) moved to the nearest bound where there is one."""
        found = (nearest(bounds_s, float(time_s), self.snap_s) for time_s in times_s)
        return np.array([time_s if one is None else one for one, time_s in zip(found, times_s, strict=True)])


def mask_of(starts: np.ndarray, ends: np.ndarray, num_steps: int) -> np.ndarray:
    """Return how much of each step (steps,) cues cover, from 0 to 1; starts and ends (cues,) in steps, from 0 on."""
    edge = np.zeros(num_steps + 1)
    np.add.at(edge, np.clip(np.rint(starts).astype(int), 0, num_steps), 1)
    np.add.at(edge, np.clip(np.rint(ends).astype(int), 0, num_steps), -1)
    return (np.cumsum(edge)[:num_steps] > 0).astype(np.float64)

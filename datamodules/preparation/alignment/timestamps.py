"""Alignment by timestamps alone, without listening: for comparison only."""

from dataclasses import dataclass

import numpy as np

from datamodules.preparation.alignment.aligner import Aligner, Alignment, aligned, ends, starts
from datamodules.preparation.subtitles import Cue


@dataclass
class Timestamps(Aligner):
    """Warp the times of the cues onto those of the frames by DTW, in windows, with open begin and end.

    This is what the literature shows as alignment by DTW. It leaves a constant offset as it is, since no time tells
    what is heard at it.
    """

    frame_s: float = 0.04
    """From one frame to the next."""
    stretch_s: float = 60.0
    """How much of the subtitles is warped at once."""

    def __call__(self, sound: np.ndarray, cues: list[Cue]) -> Alignment:
        """Return the cues at the frames that their times were warped onto."""
        from datamodules.preparation.alignment.stretches import stretches

        parts = list(stretches(cues, self.stretch_s))
        starts_s = np.concatenate([self.warp_times(starts(cues)[part]) for part in parts])
        ends_s = np.concatenate([self.warp_times(ends(cues)[part]) for part in parts])
        return aligned(cues, (starts_s, np.maximum(ends_s, starts_s + self.frame_s)))

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
            [
                min(frames, key=lambda frame_s, time_s=time_s: abs(frame_s - time_s), default=time_s)
                for frames, time_s in zip(matched, times_s, strict=True)
            ]
        )

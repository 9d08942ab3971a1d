"""Filter by how a sound was recorded: too quiet, clipped, or mostly silence."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.sounds import open_sound
from datamodules.preparation.cleaning.filter import Filter, Reject
from datamodules.sources.source import SOUND_SUFFIXES, Sample

if TYPE_CHECKING:
    import numpy as np

WINDOW_SECONDS = 0.02
FULL_SCALE = 0.999
MAX_SECONDS = 3600.0
SILENCE_DBFS = -60.0
MIN_POWER = 1e-12


@dataclass
class SoundLevel(Filter):
    """Drop samples with a sound that is too quiet to hear, cut off at full scale, or mostly silence.

    Levels are of the mean over channels, in decibels below full scale (dBFS), where a sine of full scale has -3.
    """

    min_dbfs: float = -50.0
    """The lowest level of the whole sound that is kept."""
    max_clipped_share: float = 0.01
    """Of all values, how many may be at full scale; a share from 0 to 1."""
    max_silent_share: float = 0.9
    """Of all windows of 20 ms, how many may be below -60 dBFS; a share from 0 to 1."""

    def __post_init__(self) -> None:
        for name, share in (
            ("max_clipped_share", self.max_clipped_share),
            ("max_silent_share", self.max_silent_share),
        ):
            if not 0 <= share <= 1:
                raise ValueError(f"SoundLevel.{name} is {share}, expected a share from 0 to 1")

    def examine(self, sample: Sample) -> None:
        for suffix, data in sample.members.items():
            levels = measure(data) if suffix in SOUND_SUFFIXES else None
            if levels is None:
                continue
            if levels.dbfs < self.min_dbfs:
                raise Reject("sound too quiet")
            if levels.clipped_share > self.max_clipped_share:
                raise Reject("sound clipped")
            if levels.silent_share > self.max_silent_share:
                raise Reject("sound mostly silent")


@dataclass(frozen=True)
class Levels:
    """What `measure` finds in a sound."""

    dbfs: float
    """Level of the whole, in dBFS; at least -120."""
    clipped_share: float
    """Share of values at full scale, in any channel."""
    silent_share: float
    """Share of windows of 20 ms below -60 dBFS."""
    snr_db: float
    """Level of the loudest tenth of windows over that of the quietest tenth: a crude estimate of signal over noise."""


def measure(data: bytes) -> Levels | None:
    """Measure a sound's first hour, or return None where the bytes are no sound or an empty one."""
    import numpy as np

    windows, clipped, values = [], 0, 0
    for part, size in minutes(data):  # (frames, channels)
        clipped += int((np.abs(part) >= FULL_SCALE).sum())
        values += part.size
        starts = np.arange(0, len(part), size)
        sums = np.add.reduceat(np.square(part.mean(axis=1), dtype=np.float64), starts)
        windows.append(sums / np.diff(np.append(starts, len(part))))
    if not values:
        return None
    power = np.concatenate(windows)
    decibels = 10 * np.log10(np.maximum(power, MIN_POWER))  # (windows,)
    quiet, loud = np.quantile(decibels, [0.1, 0.9])
    return Levels(
        dbfs=float(10 * np.log10(max(power.mean(), MIN_POWER))),
        clipped_share=clipped / values,
        silent_share=float((decibels < SILENCE_DBFS).mean()),
        snr_db=float(loud - quiet),
    )


def minutes(data: bytes) -> "Iterator[tuple[np.ndarray, int]]":
    """Yield a sound by the minute, (frames, channels) float32, with the number of frames in 20 ms.

    Nothing is yielded where it cannot be decoded, which is for `Undecodable` to count.
    """
    import numpy as np
    import soundfile

    try:
        with open_sound(data) as sound:
            size = max(1, round(WINDOW_SECONDS * sound.samplerate))
            limit = round(MAX_SECONDS * sound.samplerate)
            for part in sound.blocks(3000 * size, frames=limit, dtype="float32", always_2d=True):
                yield np.nan_to_num(part), size
    except (BadSample, soundfile.SoundFileError):
        return

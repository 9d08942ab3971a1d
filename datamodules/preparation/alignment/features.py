"""Sound as sequences of MFCC that a quiet studio's voice and a noisy room's share: both are heard through one noise.

Sound is a waveform (samples,), float32, 16 kHz; a frame lasts 10 ms.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

SAMPLING_RATE = 16_000
FRAMES_PER_S = 100
HOP = SAMPLING_RATE // FRAMES_PER_S
WINDOW = 400
NUM_BANDS = 40
NUM_COEFFICIENTS = 13
BLOCK_FRAMES = 6000
"""A minute of sound is transformed at once, which bounds the memory."""
FLOOR = 1e-5
"""Noise is never taken to be further below the speech than this (50 dB)."""
SAMPLED_FRAMES = 20_000
"""Levels and means are taken from at most this many frames."""


def mel_power(waveform: np.ndarray) -> np.ndarray:
    """Return the power of waveform (samples,) in mel bands (frames, 40), float32; frame t is centred on t * 10 ms."""
    return np.concatenate(list(mel_blocks(waveform)))


def mel_blocks(waveform: np.ndarray) -> Iterator[np.ndarray]:
    """Yield `mel_power` in blocks of a minute."""
    import librosa

    filters = librosa.filters.mel(sr=SAMPLING_RATE, n_fft=WINDOW, n_mels=NUM_BANDS)
    num_frames = 1 + len(waveform) // HOP
    for first in range(0, num_frames, BLOCK_FRAMES):
        last = min(first + BLOCK_FRAMES, num_frames)
        start, stop = first * HOP - WINDOW // 2, (last - 1) * HOP + WINDOW // 2
        block = np.pad(
            waveform[max(0, start) : stop], (max(0, -start), max(0, stop - len(waveform))), mode="constant"
        )
        spectrum = librosa.stft(block, n_fft=WINDOW, hop_length=HOP, center=False)
        yield (filters @ np.square(np.abs(spectrum))).T.astype(np.float32)


@dataclass(frozen=True)
class Room:
    """What else is in a sound besides speech."""

    noise: np.ndarray
    """(40,) Power in the pauses, per mel band."""
    speech: float
    """Power of the loud frames, all bands together."""

    @property
    def floor(self) -> float:
        """Power per mel band below which nothing is told apart, digital silence included."""
        return FLOOR * self.speech / NUM_BANDS

    def place(self, power: np.ndarray) -> np.ndarray:
        """Return the power (frames, 40) of dry speech as it would be in this room: as loud, in the same noise."""
        loud = level(power)
        return power * (self.speech / max(loud, 1e-20)) + self.noise


def listen(power: np.ndarray) -> Room:
    """Return the room of a sound of that power (frames, 40)."""
    sampled = power[:: 1 + len(power) // SAMPLED_FRAMES]
    totals = sampled.sum(axis=1)
    noise = sampled[totals <= np.quantile(totals, 0.1)].mean(axis=0)
    speech = max(level(sampled) - float(noise.sum()), 1e-12)
    return Room(np.maximum(noise, FLOOR * speech / NUM_BANDS), speech)


def level(power: np.ndarray) -> float:
    """Return how loud speech of that power (frames, 40) is, whatever pauses it has."""
    return float(np.quantile(power.sum(axis=1), 0.9))


def cepstrum(power: np.ndarray) -> np.ndarray:
    """Return MFCC (frames, 13), float32, of power (frames, 40)."""
    from scipy.fft import dct

    pieces = [
        dct(np.log(power[first : first + BLOCK_FRAMES] + 1e-20), norm="ortho", axis=1)[:, :NUM_COEFFICIENTS]
        for first in range(0, len(power), BLOCK_FRAMES)
    ]
    return np.concatenate(pieces).astype(np.float32)


def normalised(frames: np.ndarray) -> np.ndarray:
    """Return MFCC (frames, 13) of which the loud frames have zero mean and unit variance."""
    sampled = frames[:: 1 + len(frames) // SAMPLED_FRAMES]
    loud = sampled[sampled[:, 0] >= (sampled[:, 0].max() + sampled[:, 0].min()) / 2]
    return (frames - loud.mean(axis=0)) / (loud.std(axis=0) + 1e-6)


def distances(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the Euclidean distance (rows, columns) of each frame of the query from each of the reference."""
    squares = np.square(query).sum(axis=1)[:, None] + np.square(reference).sum(axis=1)
    return np.sqrt(np.maximum(squares - 2 * query @ reference.T, 0))

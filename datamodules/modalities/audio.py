"""Audio: encoded sound to a waveform."""

import io
import struct

import numpy as np
import torch
from torch import Tensor

from datamodules.modalities.bad_sample import BadSample


class Audio:
    """Sound to mono at one rate. Inputs: `waveform` (rows, samples) float32 in [-1, 1], zero where padded,
    and `lengths` (rows,) int64, real samples of each row.

    Args:
        sampling_rate: in hertz.
        max_seconds: longer sound is cut; in training at a random place, else behind its start.
        min_seconds: shorter sound is a bad sample.
        max_noise: in training, white noise of up to so much of the sound's own level is added, at a random gain.
    """

    members = ("flac", "wav", "ogg", "mp3")

    def __init__(
        self, sampling_rate: int, max_seconds: float, min_seconds: float = 0.05, max_noise: float = 0.0
    ) -> None:
        self.sampling_rate, self.max_noise = sampling_rate, max_noise
        self.max_samples = round(max_seconds * sampling_rate)
        self.min_samples = round(min_seconds * sampling_rate)

    def decode(self, data: bytes, member: str) -> np.ndarray:
        """Return a waveform (samples,), float32 in [-1, 1], of at most twice `max_seconds`.

        Raises:
            BadSample: when it is not sound, cut, not finite, or too short.
        """
        import soundfile

        if _is_cut_wav(data):
            raise BadSample("audio_cut", "the WAV header promises more than there is")
        try:
            with soundfile.SoundFile(io.BytesIO(data)) as file:
                rate, channels = file.samplerate, file.channels
                if not 1000 <= rate <= 768_000 or channels > 64:
                    raise BadSample("audio_header", f"{rate} Hz, {channels} channels")
                frames = 2 * self.max_samples * rate // self.sampling_rate + 1
                waveform = file.read(frames, dtype="float32", always_2d=True).mean(axis=1)
        except BadSample:
            raise
        except Exception as error:  # the decoder raises many kinds; each means that these bytes are no sound
            raise BadSample("undecodable_audio", f"{type(error).__name__}: {error}") from error
        if not np.isfinite(waveform).all():
            raise BadSample("audio_not_finite")
        if rate != self.sampling_rate and len(waveform):
            import soxr

            waveform = soxr.resample(waveform, rate, self.sampling_rate)
        if len(waveform) < self.min_samples:
            raise BadSample("audio_too_short", f"{len(waveform) / self.sampling_rate:.3f} s")
        return np.clip(waveform, -1.0, 1.0)

    def augment(self, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if len(value) > self.max_samples:
            start = int(rng.integers(len(value) - self.max_samples + 1))
            value = value[start : start + self.max_samples]
        if self.max_noise:
            level = float(np.sqrt(np.mean(value**2))) * rng.uniform(0, self.max_noise)
            value = value * rng.uniform(0.5, 1.5) + level * rng.standard_normal(len(value), dtype=np.float32)
        return np.clip(value, -1.0, 1.0).astype(np.float32)

    def collate(self, values: list[np.ndarray]) -> dict[str, Tensor]:
        values = [value[: self.max_samples] for value in values]
        waveform = np.zeros((len(values), max(map(len, values), default=0)), dtype=np.float32)
        for row, value in enumerate(values):
            waveform[row, : len(value)] = value
        lengths = torch.tensor([len(value) for value in values], dtype=torch.long)
        return {"waveform": torch.from_numpy(waveform), "lengths": lengths}


def _is_cut_wav(data: bytes) -> bool:
    """Tell whether a WAV ends before its samples do, which the decoder does not say."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return False
    position = 12
    while position + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        position += 8 + size + size % 2
        if name == b"data":
            is_streamed = size >= 0x7FFFFF00  # encoders that cannot seek back write the largest size there is
            return not is_streamed and len(data) < position - size % 2
    return False

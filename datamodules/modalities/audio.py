"""Audio: encoded sound to a waveform."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.sounds import read_sound
from datamodules.modalities.spectrogram_masks import SpectrogramMasks


@dataclass(frozen=True)
class MaskedSound:
    """A waveform (samples,) and the parts of its spectrogram that training hides, each (masks, 2) as shares."""

    waveform: np.ndarray
    time_masks: np.ndarray
    mel_masks: np.ndarray


class Audio:
    """Sound to mono at one rate. Inputs: `waveform` (rows, samples) float32 in [-1, 1], zero where padded,
    and `lengths` (rows,) int64, real samples of each row; with `spec_augment` also `time_masks` and
    `mel_masks`, each (rows, masks, 2) float32: start and end as shares of the row's length, of its mel bands.

    What makes a sound bad is said in docs/bad_input.md, what training alone does in docs/augmentation.md.

    Args:
        sampling_rate: in hertz.
        max_seconds: longer sound is cut; in training at a random place, else behind its start.
        min_seconds: shorter sound is a bad sample.
        max_noise: in training, white noise of up to so much of the sound's own level is added.
        max_gain_db: in training, the sound is made up to so many decibels louder or softer.
        spec_augment: in training, arguments of SpectrogramMasks, such as `{num_time_masks: 2}`.
        has_spectrogram: whether the encoder hides parts of its spectrogram when told; the encoder says it.

    Raises:
        ValueError: when a number makes no sense, or the encoder has no spectrogram to hide parts of.
    """

    members = ("flac", "wav", "ogg", "mp3")

    def __init__(
        self,
        sampling_rate: int,
        max_seconds: float,
        min_seconds: float = 0.05,
        max_noise: float = 0.0,
        max_gain_db: float = 0.0,
        spec_augment: Mapping[str, float] | None = None,
        has_spectrogram: bool = False,
    ) -> None:
        if sampling_rate < 1 or not 0 <= min_seconds <= max_seconds or max_seconds * sampling_rate < 1:
            raise ValueError(
                f"audio: sampling_rate {sampling_rate}, min_seconds {min_seconds}, max_seconds {max_seconds}: "
                "expected at least 1 Hz, and 0 <= min_seconds <= max_seconds"
            )
        if not 0 <= max_noise <= 10 or not 0 <= max_gain_db <= 60:
            raise ValueError(
                f"audio: max_noise is {max_noise}, max_gain_db {max_gain_db}: expected 0 to 10 times the sound's "
                "level, and 0 to 60 dB"
            )
        if spec_augment is not None and not has_spectrogram:
            raise ValueError(
                "audio: spec_augment is given, and the encoder takes waveforms and hides no part of a "
                "spectrogram: leave it out, or choose an encoder such as modules.encoders.audio.AudioEncoder"
            )
        self.sampling_rate, self.max_seconds = sampling_rate, max_seconds
        self.max_samples = round(max_seconds * sampling_rate)
        self.min_samples = round(min_seconds * sampling_rate)
        self.max_noise, self.max_gain_db = max_noise, max_gain_db
        self.masks = SpectrogramMasks(**spec_augment) if spec_augment is not None else None

    def decode(self, data: bytes, member: str) -> np.ndarray:
        """Return a waveform (samples,), float32 in [-1, 1], of at most twice `max_seconds`.

        Raises:
            BadSample: when it is not sound, cut, damaged, not finite, or too short.
        """
        waveform = read_sound(data, self.sampling_rate, 2 * self.max_seconds)
        if len(waveform) < max(1, self.min_samples):
            raise BadSample("audio_too_short", f"{len(waveform) / self.sampling_rate:.3f} s")
        return waveform

    def augment(self, value: np.ndarray, rng: np.random.Generator) -> np.ndarray | MaskedSound:
        if len(value) > self.max_samples:
            start = int(rng.integers(len(value) - self.max_samples + 1))
            value = value[start : start + self.max_samples]
        if self.max_gain_db:
            value = value * np.float32(10 ** (rng.uniform(-self.max_gain_db, self.max_gain_db) / 20))
        if self.max_noise:
            level = float(np.sqrt(np.mean(value**2))) * rng.uniform(0, self.max_noise)
            value = value + np.float32(level) * rng.standard_normal(len(value), dtype=np.float32)
        value = np.clip(value, -1.0, 1.0).astype(np.float32, copy=False)
        return MaskedSound(value, *self.masks.draw(rng)) if self.masks else value

    def collate(self, values: list[np.ndarray | MaskedSound]) -> dict[str, Tensor]:
        sounds = [value if isinstance(value, MaskedSound) else self._unmasked(value) for value in values]
        waveforms = [sound.waveform[: self.max_samples] for sound in sounds]
        waveform = np.zeros((len(values), max(map(len, waveforms), default=0)), dtype=np.float32)
        for row, one in enumerate(waveforms):
            waveform[row, : len(one)] = one
        inputs = {
            "waveform": torch.from_numpy(waveform),
            "lengths": torch.tensor([len(one) for one in waveforms], dtype=torch.long),
        }
        if self.masks:
            for name, number in (
                ("time_masks", self.masks.num_time_masks),
                ("mel_masks", self.masks.num_mel_masks),
            ):
                drawn = [masks for sound in sounds for masks in vars(sound)[name]]
                inputs[name] = torch.from_numpy(
                    np.array(drawn, dtype=np.float32).reshape(len(values), number, 2)
                )
        return inputs

    def _unmasked(self, waveform: np.ndarray) -> MaskedSound:
        """Give a sound that was not augmented masks that hide nothing."""
        if self.masks is None:
            return MaskedSound(waveform, np.zeros((0, 2)), np.zeros((0, 2)))
        return MaskedSound(
            waveform, np.zeros((self.masks.num_time_masks, 2)), np.zeros((self.masks.num_mel_masks, 2))
        )

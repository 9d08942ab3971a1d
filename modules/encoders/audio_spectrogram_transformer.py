"""AudioSpectrogramTransformer: AST (arXiv:2104.01778), a vision transformer over patches of a filter bank's output."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from modules.encoders.encoder import Encoder, at_least_one_row
from modules.encoders.processor import sound_settings
from modules.encoders.spectrogram import full_precision
from modules.encoders.trunk import load_trunk
from modules.encoders.waveform import pad_exactly
from modules.tokens import Tokens

SAMPLING_RATE = 16000
WINDOW, HOP, FFT = 400, 160, 512  # samples
FLOOR = 1.192092955078125e-07
PREEMPHASIS = 0.97
NUM_SPECIAL = 2  # class and distillation token


class AudioSpectrogramTransformer(Encoder):
    """Waveforms (rows, samples), 16 kHz, to Tokens, one a patch, in the order of time, at each time from low to high.

    AST always sees a picture of one length, blank behind the sound, so a batch's padding changes nothing; patches that
    begin behind the sound are masked.

    Args:
        name_or_path: a pretrained model, with its feature extractor's settings; or
        config: with model_type `audio-spectrogram-transformer`; its `max_length` says the length, in frames of 10 ms.
        mean: of the filter bank's output over the data, subtracted; by default the extractor's, or AudioSet's.
        std: as `mean`; the output is divided by twice as much.

    Raises:
        ValueError: when neither or both of `name_or_path` and `config` are given, or the model is another.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        name_or_path: str | None = None,
        *,
        config: dict[str, Any] | None = None,
        mean: float | None = None,
        std: float | None = None,
    ) -> None:
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        self.trunk = load_trunk(name_or_path, config)
        known = self.trunk.config
        if known.model_type != "audio-spectrogram-transformer":
            raise ValueError(
                "AudioSpectrogramTransformer is for model_type audio-spectrogram-transformer, this is "
                f"{known.model_type}"
            )
        told = sound_settings(name_or_path) if name_or_path is not None else {}
        self.mean = told.get("mean", -4.2677393) if mean is None else mean
        self.std = told.get("std", 4.5689974) if std is None else std
        self.dim, self.num_frames = known.hidden_size, known.max_length
        self.num_bands = (known.num_mel_bins - known.patch_size) // known.frequency_stride + 1
        self.num_times = (known.max_length - known.patch_size) // known.time_stride + 1
        filters = mel_filter_bank(
            num_frequency_bins=1 + FFT // 2,
            num_mel_filters=known.num_mel_bins,
            min_frequency=20,
            max_frequency=SAMPLING_RATE // 2,
            sampling_rate=SAMPLING_RATE,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
        self.register_buffer("window", torch.hann_window(WINDOW, periodic=False), persistent=False)
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)

    @property
    def num_samples(self) -> int:
        """Samples that the model's picture covers."""
        return WINDOW + (self.num_frames - 1) * HOP

    @property
    def input_config(self) -> dict[str, Any]:
        return {
            "class_path": "datamodules.modalities.audio.Audio",
            "init_args": {"sampling_rate": SAMPLING_RATE, "max_seconds": self.num_samples / SAMPLING_RATE},
        }

    def init_args(self) -> dict[str, Any]:
        return {"config": self.trunk.config.to_diff_dict(), "mean": self.mean, "std": self.std}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode sound.

        Args:
            inputs: `waveform` (rows, samples) float in [-1, 1], zero where padded, and `lengths` (rows,) in samples.

        Raises:
            ValueError: when a sound is longer than the model takes.
        """
        rows = len(inputs["waveform"])
        inputs = at_least_one_row(inputs)
        waveform = pad_exactly(inputs["waveform"].float(), self.num_samples, "this AST")
        frames, counts = self.filter_bank(waveform, inputs["lengths"])
        features = self.trunk(frames).last_hidden_state[:, NUM_SPECIAL:]  # (rows, bands × times, dim)
        features = features.unflatten(1, (self.num_bands, self.num_times)).transpose(1, 2).flatten(1, 2)
        starts = torch.arange(self.num_times, device=features.device) * self.trunk.config.time_stride
        mask = (starts < counts.unsqueeze(1)).repeat_interleave(self.num_bands, 1)  # (rows, times × bands)
        return Tokens(features[:rows], mask[:rows])

    def filter_bank(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames (rows, frames, mels), normalised as ASTFeatureExtractor does, and how many are real (rows,).

        The waveform is as long as the model's picture.
        """
        pieces = waveform.unfold(1, WINDOW, HOP)  # (rows, frames, WINDOW)
        pieces = pieces - pieces.mean(2, keepdim=True)
        before = torch.cat([pieces[..., :1], pieces[..., :-1]], dim=2)
        pieces = (pieces - PREEMPHASIS * before) * self.window
        with full_precision(waveform):
            power = torch.fft.rfft(pieces, n=FFT).abs().square()
            frames = (power @ self.filters).clamp(min=FLOOR).log()
        counts = ((lengths - WINDOW) // HOP + 1).clamp(min=1, max=self.num_frames)
        real = torch.arange(self.num_frames, device=frames.device) < counts.unsqueeze(1)
        return (frames * real.unsqueeze(2) - self.mean) / (2 * self.std), counts

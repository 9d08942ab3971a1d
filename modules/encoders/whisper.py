"""WhisperEncoder: the encoder of Whisper (arXiv:2212.04356), from waveform to tokens on the device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from modules.encoders.encoder import Encoder, at_least_one_row
from modules.encoders.spectrogram import full_precision
from modules.encoders.trunk import load_trunk
from modules.encoders.waveform import pad_exactly
from modules.tokens import Tokens

SAMPLING_RATE = 16000
WINDOW, HOP = 400, 160  # samples
STRIDE = 2  # frames in a token


class WhisperEncoder(Encoder):
    """Waveforms (rows, samples), 16 kHz, to Tokens, one every 20 ms, as many as the longest real sound has.

    Whisper always hears sound of one length, silence behind it included, so a batch's padding changes nothing.

    Args:
        name_or_path: a pretrained model, of which the encoder is kept; or
        config: with model_type `whisper`; its `max_source_positions` says the length, 1500 for 30 s.
        max_seconds: longer sound is cropped by the data module; by default all that the model takes.

    Raises:
        ValueError: when neither or both of `name_or_path` and `config` are given, the model is another, or takes less.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        name_or_path: str | None = None,
        *,
        config: dict[str, Any] | None = None,
        max_seconds: float | None = None,
    ) -> None:
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        steady = {"encoder_layerdrop": 0.0, "apply_spec_augment": False}
        model = load_trunk(name_or_path, config, **steady)
        if model.config.model_type != "whisper":
            raise ValueError(f"WhisperEncoder is for model_type whisper, this is {model.config.model_type}")
        self.trunk, self.dim = model.encoder, model.config.d_model
        self.num_samples = model.config.max_source_positions * STRIDE * HOP
        self.max_seconds = max_seconds or self.num_samples / SAMPLING_RATE
        if self.max_seconds * SAMPLING_RATE > self.num_samples:
            raise ValueError(
                f"max_seconds is {self.max_seconds}, the model takes {self.num_samples / SAMPLING_RATE}: lower it"
            )
        filters = mel_filter_bank(
            num_frequency_bins=1 + WINDOW // 2,
            num_mel_filters=model.config.num_mel_bins,
            min_frequency=0.0,
            max_frequency=8000.0,
            sampling_rate=SAMPLING_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("filters", torch.from_numpy(filters.T).float(), persistent=False)

    @property
    def input_config(self) -> dict[str, Any]:
        return {
            "class_path": "datamodules.modalities.audio.Audio",
            "init_args": {"sampling_rate": SAMPLING_RATE, "max_seconds": self.max_seconds},
        }

    def init_args(self) -> dict[str, Any]:
        return {"config": self.trunk.config.to_diff_dict(), "max_seconds": self.max_seconds}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode sound.

        Args:
            inputs: `waveform` (rows, samples) float in [-1, 1], zero where padded, and `lengths` (rows,) in samples.

        Raises:
            ValueError: when a sound is longer than the model takes.
        """
        rows = len(inputs["waveform"])
        inputs = at_least_one_row(inputs)
        frames = self.log_mel(pad_exactly(inputs["waveform"].float(), self.num_samples, "this Whisper"))
        features = self.trunk(frames).last_hidden_state  # (rows, max_source_positions, dim)
        counts = ((inputs["lengths"] + STRIDE * HOP - 1) // (STRIDE * HOP)).clamp(min=1)
        longest = -(-inputs["waveform"].shape[1] // (STRIDE * HOP))
        mask = torch.arange(max(1, longest), device=features.device) < counts.unsqueeze(1)
        return Tokens(features[:rows, : mask.shape[1]], mask[:rows])

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Return frames (rows, mels, frames) of waveforms of the model's length, as WhisperFeatureExtractor does."""
        with full_precision(waveform):
            spectrum = torch.stft(waveform, WINDOW, HOP, window=self.window, return_complex=True)
            frames = (self.filters @ spectrum[..., :-1].abs().square()).clamp(min=1e-10).log10()
        loudest = frames.amax((1, 2), keepdim=True)
        return (torch.maximum(frames, loudest - 8.0) + 4.0) / 4.0

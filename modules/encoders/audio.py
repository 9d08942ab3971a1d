"""Sound: log-mel frames, strided convolutions, and a transformers trunk over the frames."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules.encoders.encoder import Encoder, at_least_one_row
from modules.encoders.spectrogram import LogMel, hide_masked
from modules.encoders.trunk import build_trunk
from modules.tokens import Tokens


class AudioEncoder(Encoder):
    """Waveforms (rows, samples) to Tokens, one for every `10 ms x stride`.

    Args:
        trunk: config of a bidirectional transformers model that takes `inputs_embeds`,
            such as `{model_type: modernbert, hidden_size: 128, …}`.
        sampling_rate: in hertz; the data module resamples to it.
        max_seconds: longer sound is cropped by the data module.
        num_mels: mel bands.
        num_convolutions: each halves the number of frames.
    """

    def __init__(
        self,
        trunk: dict[str, Any],
        *,
        sampling_rate: int = 16000,
        max_seconds: float = 10.0,
        num_mels: int = 64,
        num_convolutions: int = 3,
    ) -> None:
        super().__init__()
        without_words = {f"{name}_token_id": None for name in ("pad", "bos", "eos", "cls", "sep")}
        self.trunk = build_trunk({**trunk, "vocab_size": 1, **without_words})
        self.trunk.get_input_embeddings().requires_grad_(False)  # never used: frames take the place of words
        self.dim = self.trunk.config.hidden_size
        self.sampling_rate, self.max_seconds = sampling_rate, max_seconds
        self.num_mels, self.num_convolutions = num_mels, num_convolutions
        self.log_mel = self._front_end()
        self.mask_frame = nn.Parameter(torch.zeros(num_mels))
        widths = [num_mels] + [self.dim] * num_convolutions
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, self.dim, kernel_size=3, stride=2, padding=1) for width in widths[:-1]
        )

    def _front_end(self) -> nn.Module:
        return LogMel(sampling_rate=self.sampling_rate, num_mels=self.num_mels)

    @property
    def stride(self) -> int:
        """Frames of the spectrogram in one token."""
        return 2**self.num_convolutions

    @property
    def input_config(self) -> dict[str, Any]:
        return {
            "class_path": "datamodules.modalities.audio.Audio",
            "init_args": {
                "sampling_rate": self.sampling_rate,
                "max_seconds": self.max_seconds,
                "has_spectrogram": True,
            },
        }

    def init_args(self) -> dict[str, Any]:
        return {
            "trunk": self.trunk.config.to_diff_dict(),
            "sampling_rate": self.sampling_rate,
            "max_seconds": self.max_seconds,
            "num_mels": self.num_mels,
            "num_convolutions": self.num_convolutions,
        }

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode sound.

        Args:
            inputs: `waveform` (rows, samples) float in [-1, 1], `lengths` (rows,) in samples, and for masked
                prediction `masked` (rows, frames) bool: frames that the encoder must not see; where training
                hides parts of the spectrogram, `time_masks` and `mel_masks` (rows, masks, 2), as shares.
        """
        rows = len(inputs["waveform"])
        inputs = at_least_one_row(inputs)
        frames, mask = self.log_mel(inputs["waveform"], inputs["lengths"])
        if "time_masks" in inputs:
            frames = hide_masked(frames, mask, inputs["time_masks"], inputs["mel_masks"])
        masked = inputs.get("masked", torch.zeros_like(mask)).unsqueeze(-1)
        features = torch.where(masked, self.mask_frame, frames).transpose(1, 2)  # (rows, num_mels, frames)
        for convolution in self.convolutions:
            features = nn.functional.gelu(convolution(features)) * mask[:, None, ::2]
            mask = mask[:, ::2]
        features = self.trunk(
            inputs_embeds=features.transpose(1, 2).contiguous(), attention_mask=mask
        ).last_hidden_state  # (rows, tokens, dim)
        return Tokens(features[:rows], mask[:rows])

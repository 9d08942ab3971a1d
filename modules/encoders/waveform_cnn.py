"""WaveformCNN: strided convolutions over the waveform, without a spectrogram."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modules.encoders.encoder import Encoder, at_least_one_row
from modules.encoders.wav2vec import num_frames, shortest
from modules.encoders.waveform import pad_to
from modules.tokens import Tokens


class WaveformCNN(Encoder):
    """Waveforms (rows, samples) to Tokens: the feature encoder of Wav2Vec 2.0 (arXiv:2006.11477, section 2).

    Convolutions without padding, each followed by LayerNorm over the channels and GELU, so that a token depends on
    the samples under it alone: 25 ms every 20 ms with the default steps at 16 kHz.

    Args:
        dim: channels.
        kernels: samples that each convolution sees.
        strides: steps of each.
        sampling_rate: in hertz; the data module resamples to it.
        max_seconds: longer sound is cropped by the data module.

    Raises:
        ValueError: when kernels and strides are not equally many, or a number is below one.
    """

    def __init__(
        self,
        dim: int = 256,
        *,
        kernels: Sequence[int] = (10, 3, 3, 3, 3, 2, 2),
        strides: Sequence[int] = (5, 2, 2, 2, 2, 2, 2),
        sampling_rate: int = 16000,
        max_seconds: float = 10.0,
    ) -> None:
        super().__init__()
        if len(kernels) != len(strides) or not kernels or min(*kernels, *strides, dim) < 1:
            raise ValueError(
                f"kernels {list(kernels)}, strides {list(strides)}, dim {dim}: expected one stride for each kernel, "
                "all at least 1"
            )
        self.dim, self.sampling_rate, self.max_seconds = dim, sampling_rate, max_seconds
        self.steps = list(zip(kernels, strides, strict=True))
        widths = [1] + [dim] * (len(self.steps) - 1)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, dim, kernel, stride, bias=False)
            for width, (kernel, stride) in zip(widths, self.steps, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in self.steps)

    @property
    def input_config(self) -> dict[str, Any]:
        return {
            "class_path": "datamodules.modalities.audio.Audio",
            "init_args": {"sampling_rate": self.sampling_rate, "max_seconds": self.max_seconds},
        }

    def init_args(self) -> dict[str, Any]:
        return {
            "dim": self.dim,
            "kernels": [kernel for kernel, _ in self.steps],
            "strides": [stride for _, stride in self.steps],
            "sampling_rate": self.sampling_rate,
            "max_seconds": self.max_seconds,
        }

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode sound; what is shorter than one token is followed by silence.

        Args:
            inputs: `waveform` (rows, samples) float in [-1, 1], zero where padded, and `lengths` (rows,) in samples.
        """
        rows = len(inputs["waveform"])
        inputs = at_least_one_row(inputs)
        features = pad_to(inputs["waveform"].float(), shortest(self.steps)).unsqueeze(1)  # (rows, 1, samples)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            features = nn.functional.gelu(norm(convolution(features).transpose(1, 2))).transpose(1, 2)
        counts = num_frames(inputs["lengths"].clamp(min=shortest(self.steps)), self.steps)
        mask = torch.arange(features.shape[2], device=features.device) < counts.unsqueeze(1)
        return Tokens(features.transpose(1, 2)[:rows], mask[:rows])

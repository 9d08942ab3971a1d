"""Wav2VecEncoder: Wav2Vec 2.0, HuBERT and their kin of the transformers library, over the waveform itself."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules.encoders.encoder import Encoder, at_least_one_row
from modules.encoders.processor import sound_settings
from modules.encoders.trunk import load_trunk
from modules.encoders.waveform import pad_to
from modules.tokens import Tokens


class Wav2VecEncoder(Encoder):
    """Waveforms (rows, samples) to Tokens, one every 20 ms with the strides of the published models.

    Padding changes nothing, also in models whose first layer normalises over time ("base" ones), where in the library
    it does. Layers are not dropped and features not masked at random while training: both differ from rank to rank
    and from run to run.

    Args:
        name_or_path: a pretrained model, with its feature extractor's settings; or
        config: with model_type `wav2vec2`, `hubert`, `wavlm`, `unispeech` or `data2vec-audio`.
        sampling_rate: in hertz; by default the feature extractor's, 16 000 without one.
        max_seconds: longer sound is cropped by the data module.
        is_standardised: whether each waveform is brought to zero mean and unit variance; by default the feature
            extractor's `do_normalize`, True without one.
        num_layers: of the transformer; the others are left out, as for units from layer 6 of HuBERT.

    Raises:
        ValueError: when neither or both of `name_or_path` and `config` are given, or the model takes no waveform.
    """

    def __init__(
        self,
        name_or_path: str | None = None,
        *,
        config: dict[str, Any] | None = None,
        sampling_rate: int | None = None,
        max_seconds: float = 10.0,
        is_standardised: bool | None = None,
        num_layers: int | None = None,
    ) -> None:
        super().__init__()
        steady = {"layerdrop": 0.0, "apply_spec_augment": False, "num_hidden_layers": num_layers}
        self.trunk = load_trunk(name_or_path, config, **steady)
        known = self.trunk.config.to_dict()
        if "conv_kernel" not in known or known.get("add_adapter"):
            raise ValueError(
                f"{type(self.trunk).__name__} does not turn a waveform into frames: expected a model such as wav2vec2 "
                "or hubert, without an adapter"
            )
        told = sound_settings(name_or_path) if name_or_path is not None else {}
        self.sampling_rate = sampling_rate or told.get("sampling_rate", 16000)
        self.is_standardised = told.get("do_normalize", True) if is_standardised is None else is_standardised
        self.max_seconds, self.dim = max_seconds, self.trunk.config.hidden_size
        self.steps = list(zip(known["conv_kernel"], known["conv_stride"], strict=True))
        self.norms = _mask_norms(self.trunk.feature_extractor)  # in a list: they belong to the trunk

    @property
    def input_config(self) -> dict[str, Any]:
        return {
            "class_path": "datamodules.modalities.audio.Audio",
            "init_args": {"sampling_rate": self.sampling_rate, "max_seconds": self.max_seconds},
        }

    def init_args(self) -> dict[str, Any]:
        return {
            "config": self.trunk.config.to_diff_dict(),
            "sampling_rate": self.sampling_rate,
            "max_seconds": self.max_seconds,
            "is_standardised": self.is_standardised,
        }

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode sound.

        Args:
            inputs: `waveform` (rows, samples) float in [-1, 1] and `lengths` (rows,) in samples.
        """
        rows = len(inputs["waveform"])
        inputs = at_least_one_row(inputs)
        lengths = inputs["lengths"].clamp(min=shortest(self.steps))  # what is shorter is silence behind
        waveform = pad_to(inputs["waveform"].float(), shortest(self.steps))
        real = torch.arange(waveform.shape[1], device=waveform.device) < lengths.unsqueeze(1)
        if self.is_standardised:
            waveform = standardised(waveform, inputs["lengths"])
        for norm in self.norms:
            norm.lengths = num_frames(lengths, self.steps[:1])
        features = self.trunk(waveform, attention_mask=real.long()).last_hidden_state
        places = torch.arange(features.shape[1], device=features.device)
        mask = places < num_frames(lengths, self.steps).unsqueeze(1)
        return Tokens(features[:rows], mask[:rows])


class MaskedGroupNorm(nn.GroupNorm):
    """A channel's own mean and variance over its real frames: as GroupNorm, where nothing is padded.

    `lengths` (rows,) are given before the call, since the library hands on one tensor alone.
    """

    lengths: Tensor

    def forward(self, input: Tensor) -> Tensor:
        real = torch.arange(input.shape[2], device=input.device) < self.lengths.unsqueeze(1)
        real = real.unsqueeze(1).to(input.dtype)  # (rows, 1, frames)
        counts = real.sum(2, keepdim=True)
        mean = (input * real).sum(2, keepdim=True) / counts
        variance = ((input - mean).square() * real).sum(2, keepdim=True) / counts
        scaled = (input - mean) * torch.rsqrt(variance + self.eps)
        return scaled * self.weight.unsqueeze(1) + self.bias.unsqueeze(1)


def num_frames(lengths: Tensor, steps: list[tuple[int, int]]) -> Tensor:
    """Return how many frames convolutions (kernel, stride) without padding make of so many samples."""
    for kernel, stride in steps:
        lengths = (lengths - kernel) // stride + 1
    return lengths


def shortest(steps: list[tuple[int, int]]) -> int:
    """Return how many samples convolutions (kernel, stride) without padding need for one frame."""
    samples = 1
    for kernel, stride in reversed(steps):
        samples = (samples - 1) * stride + kernel
    return samples


def standardised(waveform: Tensor, lengths: Tensor) -> Tensor:
    """Bring each waveform to zero mean and unit variance over its real samples; padding is zero."""
    real = torch.arange(waveform.shape[1], device=waveform.device) < lengths.unsqueeze(1)
    counts = lengths.clamp(min=1).unsqueeze(1)
    mean = (waveform * real).sum(1, keepdim=True) / counts
    variance = ((waveform - mean).square() * real).sum(1, keepdim=True) / counts
    return (waveform - mean) * torch.rsqrt(variance + 1e-7) * real


def _mask_norms(feature_extractor: nn.Module) -> list[MaskedGroupNorm]:
    """Put a MaskedGroupNorm of the same weights in the place of each norm over time: the first layer's, or none."""
    norms = []
    for name, child in list(feature_extractor.conv_layers[0].named_children()):
        if isinstance(child, nn.GroupNorm):
            norms.append(MaskedGroupNorm(child.num_groups, child.num_channels, eps=child.eps))
            norms[-1].load_state_dict(child.state_dict())
            feature_extractor.conv_layers[0].register_module(name, norms[-1])
    return norms

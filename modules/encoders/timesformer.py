"""TimeSformerEncoder: divided space-time attention over the frames of a video."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from modules.encoders.encoder import Encoder, at_least_one_row
from modules.encoders.processor import PictureSettings, choose_settings, picture_settings
from modules.encoders.trunk import load_trunk
from modules.tokens import Tokens


class TimeSformerEncoder(Encoder):
    """Clips (rows, frames, 3, height, width) to Tokens, frame by frame, in each one token a patch, row by row.

    Masked frames are left out of attention through time: they change nothing.

    Args:
        name_or_path: a pretrained model, with its image processor's settings; or
        config: with model_type `timesformer`; its `num_frames` and `image_size` say what clips it takes.
        mean: of each channel over [0, 1], subtracted on the device; by default the processor's, 0.5 without one.
        std: of each channel over [0, 1]; as `mean`.

    Raises:
        ValueError: when neither or both of `name_or_path` and `config` are given, the model is another or attends
            otherwise, or a pretrained one comes without settings and none are given.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name_or_path: str | None = None,
        *,
        config: dict[str, Any] | None = None,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
    ) -> None:
        super().__init__()
        self.trunk = load_trunk(name_or_path, config)
        known = self.trunk.config
        if known.model_type != "timesformer" or known.attention_type != "divided_space_time":
            raise ValueError(
                f"TimeSformerEncoder is for model_type timesformer with attention_type divided_space_time, this is "
                f"{known.model_type} with {known.to_dict().get('attention_type')}"
            )
        self._mask_layers()
        is_told = name_or_path is None or (mean is not None and std is not None)
        default = PictureSettings() if is_told else picture_settings(str(name_or_path))
        settings = choose_settings(default, image_size=known.image_size, mean=mean, std=std)
        self.dim, self.image_size, self.num_frames = known.hidden_size, known.image_size, known.num_frames
        self._mean, self._std = settings.mean, settings.std  # as numbers, also on the meta device
        self.register_buffer("mean", torch.tensor(settings.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings.std).view(3, 1, 1), persistent=False)

    @property
    def input_config(self) -> dict[str, Any]:
        size = {"height": self.image_size, "width": self.image_size, "num_frames": self.num_frames}
        return {"class_path": "datamodules.modalities.video.Video", "init_args": size}

    def init_args(self) -> dict[str, Any]:
        return {
            "config": self.trunk.config.to_diff_dict(),
            "mean": [float(value) for value in self._mean],
            "std": [float(value) for value in self._std],
        }

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode clips.

        Args:
            inputs: `pixels` (rows, frames, 3, height, width) uint8 and `mask` (rows, frames) bool.

        Raises:
            ValueError: when clips have another number of frames than the model.
        """
        rows = len(inputs["pixels"])
        inputs = at_least_one_row(inputs)
        mask = inputs["mask"].bool()
        if mask.shape[1] != self.num_frames:
            raise ValueError(f"clips of {mask.shape[1]} frames: this TimeSformer takes {self.num_frames}")
        hidden = self.trunk.embeddings((inputs["pixels"].float() / 255 - self.mean) / self.std)
        for layer in self.trunk.encoder.layer:
            hidden = layer(hidden, mask)
        features = self.trunk.layernorm(hidden)[:, 1:].unflatten(1, (-1, self.num_frames))
        patches = features.shape[1]
        features = features.transpose(1, 2).flatten(1, 2)  # (rows, frames × patches, dim)
        return Tokens(features[:rows], mask.repeat_interleave(patches, 1)[:rows])

    def _mask_layers(self) -> None:
        """Put layers of the same weights that know the mask in the place of the library's."""
        from modules.encoders.divided_attention import DividedAttention

        layers = self.trunk.encoder.layer
        for number, layer in enumerate(layers):
            layers[number] = DividedAttention(self.trunk.config, number)
            layers[number].load_state_dict(layer.state_dict())

"""FramePooling: any encoder of pictures over the frames of a video, one token a frame."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modules import parts
from modules.encoders.encoder import Encoder, as_encoder
from modules.tokens import Tokens

PICTURES = "datamodules.modalities.image.Image"


class FramePooling(Encoder):
    """Clips (rows, frames, 3, height, width) to Tokens, one a frame: what the frame's own tokens come to.

    Real frames alone are encoded, so that masked ones cost and change nothing. `Tokens.pooled()` is then the mean over
    frames, the "mean pooling" of CLIP4Clip (arXiv:2104.08860).

    Args:
        encoder: of pictures.
        pooling: of a frame's tokens: `mean`, or `attention`, where a learned query weighs them.
        num_frames: of a clip.

    Raises:
        ValueError: when `encoder` is none of pictures, or the pooling is another.
    """

    def __init__(
        self, encoder: parts.Part, pooling: Literal["mean", "attention"] = "mean", num_frames: int = 8
    ) -> None:
        super().__init__()
        self.encoder = as_encoder(encoder, "video")
        if self.encoder.input_config["class_path"] != PICTURES:
            raise ValueError(
                f"frames are pictures, and {type(encoder).__name__} takes {self.encoder.input_config['class_path']}: "
                "expected an encoder such as modules.encoders.huggingface.ImageEncoder"
            )
        self.dim, self.pooling, self.num_frames = self.encoder.dim, pooling, num_frames
        poolings = {"mean": MeanPooling, "attention": AttentionPooling}
        if pooling not in poolings:
            raise ValueError(f"pooling is {pooling!r}: expected one of {', '.join(poolings)}")
        self.pool = poolings[pooling](self.dim)

    @property
    def input_config(self) -> dict[str, Any]:
        size = {name: self.encoder.input_config["init_args"][name] for name in ("height", "width")}
        return {
            "class_path": "datamodules.modalities.video.Video",
            "init_args": {**size, "num_frames": self.num_frames},
        }

    def init_args(self) -> dict[str, Any]:
        return {
            "encoder": parts.within(self.encoder),
            "pooling": self.pooling,
            "num_frames": self.num_frames,
        }

    def assets(self) -> dict[str, str]:
        return self.encoder.assets()

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode clips.

        Args:
            inputs: `pixels` (rows, frames, 3, height, width) uint8 and `mask` (rows, frames) bool.
        """
        mask = inputs["mask"].bool()
        frames = self.pool(self.encoder({"pixels": inputs["pixels"][mask]}))  # (real frames, dim)
        features = frames.new_zeros(*mask.shape, self.dim)
        return Tokens(features.masked_scatter(mask.unsqueeze(2), frames), mask)


class MeanPooling(nn.Module):
    """Tokens (rows, tokens, dim) to their mean (rows, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, tokens: Tokens) -> Tensor:
        return tokens.pooled()


class AttentionPooling(nn.Module):
    """Tokens (rows, tokens, dim) to (rows, dim), weighed by a learned query (arXiv:1802.04712, eq. 7, scaled)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.key = nn.Linear(dim, dim)
        self.query = nn.Parameter(torch.randn(dim) / math.sqrt(dim))

    def forward(self, tokens: Tokens) -> Tensor:
        scores = torch.tanh(self.key(tokens.features)) @ self.query  # (rows, tokens)
        scores = scores.masked_fill(~tokens.mask, torch.finfo(scores.dtype).min)
        return (scores.softmax(1).unsqueeze(2) * tokens.features).sum(1)

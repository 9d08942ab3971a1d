"""ImageTokenizer: pictures to symbols of a codebook and back, a VQ-VAE with finite scalar quantisation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modules.encoders.discrete import DiscreteEncoder
from modules.encoders.encoder import at_least_one_row
from modules.tokens import Tokens, full


class ImageTokenizer(DiscreteEncoder):
    """Square pictures to one symbol for each patch, row by row, and symbols back to pictures.

    A convolutional autoencoder (VQ-VAE, arXiv:1711.00937) whose bottleneck is FSQ (arXiv:2309.15505) as the library
    vector-quantize-pytorch has it: every patch becomes a few numbers, each rounded to one of its levels. The codebook
    is the grid of levels, so none of it is learnt, nothing is averaged over batches or ranks, and no entry can die.
    There is no batch norm either: a picture's symbols depend on nothing else in the batch.

    Args:
        image_size: height and width of a picture, pixels.
        patch_size: height and width of what a symbol stands for, pixels; a power of two.
        channels: around the bottleneck; halved with every doubling of the resolution.
        levels: of each number; their product is the size of the codebook. (8, 5, 5, 5) is the paper's for 2 ** 10.
        num_blocks: residual blocks on either side of the bottleneck.

    Raises:
        ValueError: when the sizes do not fit each other, or a level is below 3.
        ImportError: when vector-quantize-pytorch is not installed.
    """

    def __init__(
        self,
        image_size: int = 64,
        *,
        patch_size: int = 8,
        channels: int = 128,
        levels: Sequence[int] = (8, 5, 5, 5),
        num_blocks: int = 2,
    ) -> None:
        super().__init__()
        halvings = patch_size.bit_length() - 1
        if patch_size != 2**halvings or halvings < 1 or image_size < 1 or image_size % patch_size:
            raise ValueError(
                f"patch_size is {patch_size} and image_size {image_size}: expected a power of two from 2 on that "
                "divides image_size"
            )
        widths = [channels >> (halvings - 1 - step) for step in range(halvings)]  # from fine to coarse
        divisor = max(GROUPS, 2 ** (halvings - 1))
        if channels < 1 or channels % divisor:
            raise ValueError(
                f"channels is {channels} for patches of {patch_size} pixels: expected a multiple of {divisor}"
            )
        if not levels or min(levels) < 3:
            raise ValueError(f"levels is {list(levels)}: expected one number or more, each at least 3")
        try:
            from vector_quantize_pytorch import FSQ
        except ImportError as error:
            raise ImportError(
                "an image tokenizer needs vector-quantize-pytorch: pip install 'trivium[vocabulary]'"
            ) from error

        self.image_size, self.patch_size, self.channels = image_size, patch_size, channels
        self.levels, self.num_blocks, self.dim = list(levels), num_blocks, len(levels)
        self.grid = image_size // patch_size
        self.num_units, self.fixed_units = math.prod(levels), self.grid**2
        down: list[nn.Module] = []
        for before, behind in zip([3, *widths], widths, strict=False):
            down += [nn.Conv2d(before, behind, kernel_size=4, stride=2, padding=1), nn.GELU()]
        blocks = [Residual(channels) for _ in range(num_blocks)]
        # The norm spreads a new model's numbers over all levels; without it, nearly all begin in the middle one.
        narrow = [nn.GroupNorm(GROUPS, channels), nn.Conv2d(channels, self.dim, kernel_size=1)]
        self.analysis = nn.Sequential(*down, *blocks, *narrow)
        with torch.device("cpu"):  # it reads numbers that the meta device would not have
            self.quantizer = FSQ(list(levels))
        up: list[nn.Module] = []
        for before, behind in zip(widths[::-1], [*widths[-2::-1], 3], strict=True):
            up += [nn.GELU(), nn.ConvTranspose2d(before, behind, kernel_size=4, stride=2, padding=1)]
        blocks = [Residual(channels) for _ in range(num_blocks)]
        self.synthesis = nn.Sequential(nn.Conv2d(self.dim, channels, kernel_size=1), *blocks, *up)

    @property
    def input_config(self) -> dict[str, Any]:
        size = {"height": self.image_size, "width": self.image_size}
        return {"class_path": "datamodules.modalities.image.Image", "init_args": size}

    def init_args(self) -> dict[str, Any]:
        return {
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "channels": self.channels,
            "levels": self.levels,
            "num_blocks": self.num_blocks,
        }

    def beside_tokens(self) -> list[nn.Parameter]:
        """Return the parameters of what draws."""
        return list(self.synthesis.parameters())

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Return the rounded numbers of each patch, (rows, patches, levels) in [-1, 1]; gradients pass as if unrounded.

        Args:
            inputs: `pixels` (rows, 3, height, width) uint8.
        """
        return full(self._quantised(inputs)[0])

    @torch.no_grad()
    def units(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the symbols (rows, patches) of pictures, and a mask that is True throughout."""
        numbers = self._quantised(inputs)[1].long()
        return numbers, torch.ones_like(numbers, dtype=torch.bool)

    def codebook(self) -> Tensor:
        return self.quantizer.indices_to_codes(
            torch.arange(self.num_units, device=next(self.quantizer.buffers()).device)
        )

    def unit_of(self, features: Tensor) -> Tensor:
        """Return the symbols (rows, patches) of the features that `forward` returned."""
        return self.quantizer.codes_to_indices(features).long()

    def draw(self, features: Tensor) -> Tensor:
        """Return pictures (rows, 3, height, width), float with black at -1 and white at 1, of (rows, patches, dim)."""
        rows = len(features)
        if not rows:  # one row that nobody keeps; the graph still leads to what gave none
            features = torch.cat([features, features.new_zeros(1, *features.shape[1:])])
        maps = features.transpose(1, 2).unflatten(2, (self.grid, self.grid))  # (rows, dim, grid, grid)
        return self.synthesis(maps)[:rows]

    @torch.no_grad()
    def pixels(self, units: Tensor) -> Tensor:
        """Return pictures (rows, 3, height, width), uint8, of symbols (rows, patches).

        Raises:
            ValueError: when there are more or fewer symbols than patches, or one is not of the codebook.
        """
        if units.ndim != 2 or units.shape[1] != self.fixed_units:
            raise ValueError(
                f"symbols of shape {tuple(units.shape)}: a picture of {self.image_size} pixels is "
                f"{self.fixed_units} of them, row by row; draw with the tokenizer they were made for"
            )
        if units.numel() and not 0 <= int(units.min()) <= int(units.max()) < self.num_units:
            raise ValueError(
                f"symbols from {int(units.min())} to {int(units.max())}, the codebook has {self.num_units}: "
                "draw with the tokenizer they were made for"
            )
        drawn = self.draw(self.quantizer.indices_to_codes(units))
        return ((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def _quantised(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        pixels = inputs["pixels"]
        if pixels.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"pictures of shape {tuple(pixels.shape[1:])}, the image tokenizer takes "
                f"{(3, self.image_size, self.image_size)}: build the modality from its input_config"
            )
        rows = len(pixels)
        maps = self.analysis(at_least_one_row({"pixels": pixels})["pixels"].float() / 127.5 - 1)
        features, numbers = self.quantizer(maps.flatten(2).transpose(1, 2))  # (rows, patches, dim)
        return features[:rows], numbers[:rows]


GROUPS = 8
"""Of channels that a norm takes together."""


class Residual(nn.Module):
    """Two convolutions beside an identity, (rows, dim, height, width) to the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(GROUPS, dim),
            nn.GELU(),
            nn.Conv2d(dim, dim, kernel_size=3, padding=1),
            nn.GroupNorm(GROUPS, dim),
            nn.GELU(),
            nn.Conv2d(dim, dim, kernel_size=3, padding=1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.layers(maps)

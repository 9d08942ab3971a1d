"""Masked region: a rectangle of the picture is hidden, and is drawn from the rest and from what the text says."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules.collectives import global_mean
from modules.encoders.encoder import as_encoder
from modules.encoders.picture import PictureEncoder
from modules.objectives.draws import Draws
from modules.objectives.masked_image import check_hides_patches
from modules.objectives.pretraining import PretrainingObjective, never_empty
from modules.parts import Part
from modules.tokens import Tokens

TextInputs = dict[str, Tensor]


class MaskedRegion(PretrainingObjective):
    """Masked multimodal modelling: patches of a hidden region by a decoder over image tokens that attends to text.

    As in M3AE (arXiv:2205.14204, section 3.2) pixels, normalised in each patch, are regressed by squared error; differs
    in that one region is hidden instead of scattered patches, so that its surroundings say less and the text more,
    that text is not masked itself, and that any two encoders serve.

    Args:
        encoder: an image encoder whose tokens are its patches, row by row.
        text: an encoder of text, trained along unless it is frozen by `lr_factors: {objective.text: 0}`.
        share: of the patches that the region covers, about.
        dim: width of the decoder.
        num_layers: depth of the decoder.
        num_heads: attention heads of the decoder.
        seed: of the regions.

    Raises:
        ValueError: when the encoder is another kind, `text` is none, or the share is not above 0 and up to 1.
    """

    def __init__(
        self,
        encoder: PictureEncoder,
        text: Part,
        share: float = 0.4,
        dim: int = 256,
        num_layers: int = 2,
        num_heads: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_hides_patches(encoder, "masked region modelling")
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}, expected above 0 and up to 1")
        self.draws = Draws(seed)
        self.text = as_encoder(text, "text")
        self.patch_size, self.grid, self.share = encoder.patch_size, encoder.grid, share
        self.from_image, self.from_text = nn.Linear(encoder.dim, dim), nn.Linear(self.text.dim, dim)
        self.position = nn.Parameter(0.02 * torch.randn(self.grid**2, dim))
        self.silence = nn.Parameter(
            torch.zeros(1, 1, dim)
        )  # stands before every text: an empty one can be attended
        layer = nn.TransformerDecoderLayer(
            dim, num_heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, num_layers, norm=nn.LayerNorm(dim))
        self.draw = nn.Linear(dim, 3 * self.patch_size**2)

    @property
    def input_configs(self) -> dict[str, dict[str, Any]]:
        return {"text": self.text.input_config}

    def corrupt(
        self, inputs: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor, TextInputs]]:
        """Hide a region; the target is every patch (rows, patches, 3 x size x size), which are hidden, the text."""
        size = self.patch_size
        patches = nn.functional.unfold(inputs["pixels"].float() / 255, kernel_size=size, stride=size)
        patches = patches.transpose(1, 2)
        mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
        luck = self.draws.uniform(len(patches), 3).to(patches.device, torch.float32)
        hidden = regions(luck, self.grid, self.share).flatten(1)
        seen = {"pixels": inputs["pixels"], "masked": hidden}
        text = {name: tensor for name, tensor in inputs.items() if name != "pixels"}
        return seen, ((patches - mean) / (variance + 1e-6).sqrt(), hidden, text)

    def forward(
        self, tokens: Tokens, target: tuple[Tensor, Tensor, TextInputs]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Judge the hidden patches alone."""
        patches, hidden, inputs = target
        words = self.text(inputs)
        memory = torch.cat([self.silence.expand(len(words), -1, -1), self.from_text(words.features)], 1)
        silent = nn.functional.pad(~words.mask, (1, 0), value=False)
        asked = self.from_image(tokens.features) + self.position
        decoded = self.decoder(
            never_empty(asked), never_empty(memory), memory_key_padding_mask=never_empty(silent)
        )[: len(hidden)]
        drawn = self.draw(decoded[hidden])  # (hidden patches, 3 x size x size)
        loss = (drawn - patches[hidden]).float().square().mean(1)
        return {"masked_region": global_mean(loss.sum(), len(loss))}, {}


def regions(luck: Tensor, grid: int, share: float) -> Tensor:
    """Return one rectangle of cells for each row, of about a share of the grid: (rows, grid, grid), bool.

    Args:
        luck: (rows, 3), from 0 to 1: of its shape, of where it begins from above and from the left.
        grid: cells on a side.
        share: of all cells.
    """
    aspect = torch.exp2(2 * luck[:, 0] - 1)  # from 1:2 to 2:1
    height = (grid * (share * aspect).sqrt()).clamp(max=grid)
    width = (share * grid**2 / height).clamp(max=grid)
    cells = torch.arange(grid, device=luck.device)
    sides = []
    for side, where in ((height, luck[:, 1]), (width, luck[:, 2])):
        side = side.round().clamp(min=1)
        begin = (where * (grid - side + 1)).floor().minimum(grid - side)
        sides.append((cells >= begin.unsqueeze(1)) & (cells < (begin + side).unsqueeze(1)))
    return sides[0].unsqueeze(2) & sides[1].unsqueeze(1)

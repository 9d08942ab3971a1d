"""PretrainingObjective: the interface of the objectives that train one encoder by itself."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules.tokens import Tokens


class PretrainingObjective(nn.Module, ABC):
    """Hides something from an encoder, or knows something about its input, and asks for it back.

    Attributes:
        chance: what a guess scores in `accuracy`, where the objective has one.
        compares_samples: whether what a sample costs depends on the others of its batch.
    """

    chance: float | None = None
    compares_samples = False

    @property
    def input_configs(self) -> dict[str, dict[str, Any]]:
        """Modalities that the objective needs beside the encoder's own, such as a label."""
        return {}

    @abstractmethod
    def corrupt(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
        """Return what the encoder may see, and the target."""

    @abstractmethod
    def forward(self, tokens: Tokens, target: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return named scalar losses, and named scores to log (detached scalars)."""


def never_empty(tensor: Tensor) -> Tensor:
    """Give a tensor of zero rows one row of zeros behind it, for libraries' layers that cannot reshape an empty one.

    What follows of that row is not used; the graph still leads to whatever gave the zero rows.
    """
    return tensor if len(tensor) else torch.cat([tensor, tensor.new_zeros(1, *tensor.shape[1:])])

"""PretrainingObjective: the interface of the objectives that train one encoder by itself."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from modules.tokens import Tokens


class PretrainingObjective(nn.Module, ABC):
    """Hides something from an encoder, or knows something about its input, and asks for it back.

    Attributes:
        chance: what a guess scores in `accuracy`, where the objective has one.
    """

    chance: float | None = None

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

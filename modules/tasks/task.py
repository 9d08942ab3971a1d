"""Task: the interface that every supervised task has, and what it says of a batch."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from modules.encoders.encoder import Encoder
from modules.fusion.fusion import Fused, Fusion
from modules.parts import Part

if TYPE_CHECKING:
    from modules.metrics.scores import Tally

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Judged:
    """How well a batch was answered.

    Args:
        total: scalar, the sum of the losses of all that was asked.
        count: scalar, what the sum is to be divided by: how many were asked, or their weight.
        answers: what the task's tally is updated with, without gradients.
    """

    total: Tensor
    count: Tensor
    answers: tuple[Tensor, ...]


@dataclass(frozen=True)
class Truth:
    """What is right: the Inputs of the modality that says it, and which sample each of its rows belongs to.

    Args:
        inputs: name -> (rows, …).
        rows: (rows,), int64.
    """

    inputs: Inputs
    rows: Tensor


class Task(Part):
    """A head over fused tokens: its loss, and what is counted to judge it.

    Args:
        dim: width of the fused tokens.

    Attributes:
        name: of its loss.
        modality: the modality that says what is right; every sample must have it.
        chance: score -> what a guess reaches.
    """

    name: str
    modality: str

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    @property
    def chance(self) -> dict[str, float]:
        return {}

    def check(self, encoders: Mapping[str, Encoder], fusion: Fusion) -> None:
        """Refuse encoders and a fusion that the task cannot be asked of.

        Raises:
            ValueError: says which, and what to take instead.
        """
        if self.modality in encoders:
            raise ValueError(
                f"'{self.modality}' is what {type(self).__name__} asks for, and there is an encoder of that name: "
                "rename the encoder"
            )

    @abstractmethod
    def input_configs(self, encoders: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return how the inputs of all modalities are made: the encoders', and what says what is right."""

    @abstractmethod
    def split(
        self, inputs: Mapping[str, Inputs], rows: Mapping[str, Tensor]
    ) -> tuple[dict[str, Inputs], dict[str, Tensor], Truth]:
        """Return what the encoders may see, the samples that it belongs to, and what is right."""

    @abstractmethod
    def forward(self, fused: Fused, truth: Truth) -> Judged:
        """Answer and judge; no rows are as good as any other number."""

    @abstractmethod
    def tally(self) -> "Tally":
        """Return what counts answers over a whole set."""


def without(
    name: str, inputs: Mapping[str, Inputs], rows: Mapping[str, Tensor]
) -> tuple[dict[str, Inputs], dict[str, Tensor], Truth]:
    """Take the modality that says what is right out of a batch."""
    return (
        {key: value for key, value in inputs.items() if key != name},
        {key: value for key, value in rows.items() if key != name},
        Truth(inputs[name], rows[name]),
    )

"""DiscreteEncoder: the interface of encoders that turn a modality into symbols of a finite codebook."""

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor

from modules.encoders.encoder import Encoder


class DiscreteEncoder(Encoder):
    """An encoder whose tokens are entries of a codebook, so that a language model can read them beside words.

    Attributes:
        num_units: entries of the codebook.
        fixed_units: how many units every input becomes; None where that depends on its length.
    """

    num_units: int
    fixed_units: int | None = None

    @abstractmethod
    def units(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return each token's entry (rows, tokens), int64 from 0 to below `num_units`, 0 where padded, and the mask."""

    def codebook(self) -> Tensor | None:
        """Return where each entry lies among the others (num_units, width), float; None where that is not known."""
        return None

"""AlignmentObjective: the interface of the objectives that bring modalities together, and what they are given."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from modules.parts import Part
from modules.tokens import Tokens


@dataclass(frozen=True)
class Aligned:
    """What alignment made of one batch on one rank; a modality has rows only for the samples that have it.

    Args:
        embeddings: unit vectors (rows, dim) by modality.
        rows: (rows,), int64: which sample of the batch each row belongs to, by modality.
        size: samples in the batch.
        tokens: Tokens (rows, tokens, width of the encoder) by modality, for objectives that look inside a row.
        inputs: what the encoders were given, by modality, for objectives that ask for it back, such as a text's ids.
    """

    embeddings: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]
    size: int
    tokens: Mapping[str, Tokens]
    inputs: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


class AlignmentObjective(nn.Module, ABC):
    """Judges how well the modalities of a sample belong together.

    Attributes:
        compares_samples: whether what a sample costs depends on the others of its batch.

    Raises:
        ValueError: `forward`, when the model has fewer than two modalities.
    """

    compares_samples = True

    def forward(self, aligned: Aligned) -> dict[str, Tensor]:
        """Return named scalar losses; zero, with its graph, for what the batch has no sample of."""
        if len(aligned.embeddings) < 2:
            raise ValueError(
                f"{type(self).__name__} needs two modalities or more, the model has: "
                f"{', '.join(aligned.embeddings) or 'none'}: add the encoder of another"
            )
        return self.losses(aligned)

    @abstractmethod
    def losses(self, aligned: Aligned) -> dict[str, Tensor]:
        """Return named scalar losses of two modalities or more."""

    def configure(self, widths: Mapping[str, int], dim: int) -> None:
        """Be told of the model, once and before the first step: build what depends on it, refuse what does not fit.

        Args:
            widths: modality -> width of its encoder's tokens.
            dim: width of the shared space.

        Raises:
            ValueError: when the objective was built for another model.
        """

    def check_inputs(self, configs: Mapping[str, Mapping[str, Any]]) -> None:
        """Be told what the encoders are given, once and before the first step: refuse what cannot be asked back.

        Args:
            configs: modality -> its encoder's `input_config`.

        Raises:
            ValueError: when the objective was built for other inputs.
        """

    def exports(self) -> dict[str, Part]:
        """Return what a later stage may want of the objective itself, by name; most leave nothing."""
        return {}


def shared_rows(first: Tensor, second: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the rows of two modalities that belong to the same samples, in the order of the first.

    Args:
        first: (rows,) which sample each row of the first modality belongs to.
        second: (rows,) the same for the second.
        size: samples in the batch.
    """
    places = torch.arange(len(second), device=second.device)
    place = torch.full((size,), -1, device=second.device).index_copy(0, second, places)
    match = place[first]
    here = match >= 0
    return here.nonzero().squeeze(1), match[here]


def select(tokens: Tokens, index: Tensor) -> Tokens:
    """Return the Tokens of some rows, (len(index), tokens, dim)."""
    return Tokens(tokens.features[index], tokens.mask[index])

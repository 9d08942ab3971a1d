"""Encoder: the interface that every modality's encoder has."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules.parts import Part
from modules.tokens import Tokens


class Encoder(Part):
    """Turns the Inputs of one modality into Tokens.

    Attributes:
        dim: width of the features it returns.
    """

    dim: int

    @property
    @abstractmethod
    def input_config(self) -> dict[str, Any]:
        """Say how bytes become this encoder's Inputs: a modality's `class_path` and `init_args`."""

    def handed_over(self) -> "Encoder":
        """Return the encoder that the next stage gets: itself, unless it stands in for another."""
        return self

    def beside_tokens(self) -> list[nn.Parameter]:
        """Return the parameters that no Tokens depend on, such as the output layer of a language model."""
        return []

    @abstractmethod
    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode Inputs whose first dimension is rows; zero rows are as good as any other number."""


def as_encoder(part: Part, modality: str) -> Encoder:
    """Return the part itself when it is an encoder.

    Raises:
        ValueError: when it is another kind of part.
    """
    if not isinstance(part, Encoder):
        raise ValueError(
            f"{modality} was given a {type(part).__name__}, expected an encoder: name the folder of an encoder's part"
        )
    return part


def as_tower(part: Part, modality: str) -> Encoder:
    """Return the encoder, of which a stage reads Tokens alone: what they do not depend on is frozen.

    It would get no gradient, for which DDP waits in vain.

    Raises:
        ValueError: as `as_encoder` does.
    """
    encoder = as_encoder(part, modality)
    for parameter in encoder.beside_tokens():
        parameter.requires_grad_(False)
    return encoder


def at_least_one_row(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give Inputs of zero rows one row of zeros, for libraries that cannot reshape an empty tensor.

    The caller keeps `features[:rows]` of the outcome, none of it: the gradients of all parameters are
    then zeros, as they are for any modality that a batch lacks, and collectives match on every rank.
    """
    if len(next(iter(inputs.values()))):
        return dict(inputs)
    return {
        name: torch.zeros(
            (1, *(max(1, size) for size in tensor.shape[1:])), dtype=tensor.dtype, device=tensor.device
        )
        for name, tensor in inputs.items()
    }

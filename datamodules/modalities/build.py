"""Building modalities from what the encoders say they need."""

import importlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from torch import Tensor


class Modality(Protocol):
    """How bytes of one kind become tensors.

    Attributes:
        members: extensions of the shard members it answers to, lower case, the preferred one first.
    """

    members: tuple[str, ...]

    def decode(self, data: bytes, member: str) -> Any:
        """Return one value; raises BadSample."""

    def augment(self, value: Any, rng: np.random.Generator) -> Any:
        """Return the value as training sees it."""

    def collate(self, values: list[Any]) -> dict[str, Tensor]:
        """Return Inputs; no values give zero rows."""


def build_modalities(input_configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Modality]:
    """Build the modalities that encoders name by `class_path` and `init_args`, a user's own included.

    Raises:
        ValueError: when a class path cannot be imported or does not take the arguments.
    """
    return {name: _build(name, config) for name, config in input_configs.items()}


def _build(name: str, config: Mapping[str, Any]) -> Modality:
    module, _, cls = config["class_path"].rpartition(".")
    try:
        return getattr(importlib.import_module(module), cls)(**config.get("init_args", {}))
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(
            f"modality '{name}' cannot be built from {config['class_path']} ({error})"
        ) from error

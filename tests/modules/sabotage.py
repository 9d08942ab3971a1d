"""Sabotage: what tests damage, exchange or forge in parts and checkpoints, and how they see it refused."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from modules import parts

MAX_SECONDS = 5.0


class Run(NamedTuple):
    """What a stage left, to be sabotaged.

    folder: of its parts: `projections.image`, and `encoders.text` with a tokenizer; checkpoint: with the same parts.
    """

    folder: Path
    checkpoint: Path

    @property
    def part(self) -> Path:
        return self.folder / "projections.image"

    @property
    def text(self) -> Path:
        return self.folder / "encoders.text"


def edit_card(part: Path, **changes: object) -> None:
    card = yaml.safe_load((part / parts.CARD).read_text())
    (part / parts.CARD).write_text(yaml.safe_dump({**card, **changes}))


def edit_init_args(part: Path, **changes: object) -> None:
    edit_card(part, init_args={**parts.read_card(part)["init_args"], **changes})


def edit_weights(part: Path, change: Callable[[dict], dict], *, forge: bool = False) -> None:
    """Change the weights, and where `forge` the card with them, as if they had always been so."""
    tensors = change(load_file(part / parts.WEIGHTS))
    save_file(tensors, part / parts.WEIGHTS)
    if forge:
        from modules.card import digest, shape_and_dtype

        about = shape_and_dtype(tensors)
        edit_card(part, tensors={name: {**about[name], "sha256": digest(tensors[name])} for name in tensors})


def edit_checkpoint(file: Path, change: Callable[[dict], object]) -> None:
    checkpoint = torch.load(file, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, file)


def refused(path: str, message: str) -> None:
    """Load what must not be loaded, in time, by a message that says this."""
    began = time.process_time()
    with pytest.raises(parts.PartError, match=message):
        parts.load(path)
    assert time.process_time() - began < MAX_SECONDS

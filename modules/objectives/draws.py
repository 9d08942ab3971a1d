"""Draws: random numbers that a resumed run draws as the unbroken one would have."""

import hashlib

import torch
from torch import nn

from modules.collectives import world


class Draws(nn.Module):
    """Gives a generator for each step, which depends on seed, step and rank alone.

    The step is a buffer, so it comes back with a checkpoint. It moves in training only: validation draws nothing new.
    Numbers are drawn on the CPU, the same whatever the device.

    Args:
        seed: any integer.
    """

    step: torch.Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def next(self) -> torch.Generator:
        """Return the generator of this step, and go on to the next when training."""
        text = f"{self.seed} {self.step.item()} {world()[0]}"
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
        if self.training:
            self.step += 1
        return torch.Generator().manual_seed(number)

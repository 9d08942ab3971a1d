"""Draws: random numbers that a resumed run draws as the unbroken one would have, on any number of ranks."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from modules.collectives import world

BLOCK = 16  # samples whose numbers come from one generator


class Draws(nn.Module):
    """Numbers for the samples of a step's batch, which depend on seed, step and a sample's place in it alone.

    The place counts over all ranks, whose shares are equal, so one rank draws for a batch what two draw for its
    halves; a sample's first numbers are the same however many it is given, so padding does not matter. The step is a
    buffer, so it comes back with a checkpoint. It moves in training only: validation draws nothing new. Numbers are
    drawn on the CPU, the same whatever the device.

    Args:
        seed: any integer.
    """

    step: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def uniform(self, samples: int, columns: int) -> Tensor:
        """Return (samples, columns) from 0 to below 1, float64, for this rank's samples, and go on to the next step."""
        return self._next(torch.rand, samples, columns)

    def normal(self, samples: int, columns: int) -> Tensor:
        """Return (samples, columns) of the normal distribution, float64; as `uniform`."""
        return self._next(torch.randn, samples, columns)

    def _next(self, kind: Callable[..., Tensor], samples: int, columns: int) -> Tensor:
        begin = world()[0] * samples
        blocks = range(begin // BLOCK, -(-(begin + samples) // BLOCK))
        drawn = [
            kind(columns, BLOCK, generator=self._generator(block), dtype=torch.float64).T for block in blocks
        ]
        if self.training:
            self.step += 1
        if not drawn:
            return torch.zeros(0, columns, dtype=torch.float64)
        return torch.cat(drawn)[begin - blocks.start * BLOCK :][:samples]

    def _generator(self, block: int) -> torch.Generator:
        text = f"{self.seed} {self.step.item()} {block}"
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
        return torch.Generator().manual_seed(number)

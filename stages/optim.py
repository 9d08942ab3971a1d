"""Optim: the optimiser of every training stage and its schedule."""

import math
from dataclasses import dataclass
from typing import Any

from modules import parallel

FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}
"""Where AdamW has one kernel for all parameters, in every torch that we support."""


@dataclass
class Optim:
    """AdamW with linear warm-up and cosine decay to zero over the trainer's `max_steps`."""

    lr: float = 1e-3
    """Largest learning rate, reached at the end of the warm-up."""
    weight_decay: float = 0.05
    """Of matrices; vectors (biases, norms, scales) are not decayed."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Decay of the running averages of the gradient and of its square."""
    warmup_share: float = 0.05
    """Of all steps, over which the learning rate grows linearly from zero."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"optim.lr is {self.lr}, expected more than 0")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"optim.warmup_share is {self.warmup_share}, expected a share from 0 to below 1")

    def warmup_steps(self, max_steps: int) -> int:
        """Return over how many steps the learning rate grows."""
        return round(self.warmup_share * max_steps)

    def factor(self, step: int, max_steps: int) -> float:
        """Return the share of `lr` at a step, counted from 0."""
        warmup = self.warmup_steps(max_steps)
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, max_steps - warmup))))


def can_be_fused(groups: list[dict[str, Any]]) -> bool:
    """Return whether one kernel can step all parameters: whole floats, on one kind of device that has it."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    kinds = {parameter.device.type for parameter in parameters}
    is_plain = all(p.is_floating_point() and parallel.mesh_of(p) is None for p in parameters)
    return is_plain and len(kinds) == 1 and kinds <= FUSED_DEVICES

"""FiniteSteps: a step whose loss or gradient is NaN or infinite is left out, on all ranks alike."""

from collections import deque
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from callbacks import checkpoint_file as files
from callbacks.logged_steps import is_logged_step
from callbacks.running_statistics import RunningStatistics
from callbacks.signals import STOPPED
from modules.collectives import all_ranks

WINDOW_STEPS = 1000


class NotFinite(ValueError):
    """Too many steps of a run were not finite."""


class FiniteSteps(Callback):
    """Skip optimiser steps that would spoil the weights, count them, and end a run that has too many.

    One all-reduce of one number a step tells all ranks. The optimiser learns of it on the device where it can (a fused
    one takes `found_inf`, and nothing waits); otherwise the host reads the number and takes the gradients away. The
    samples of a skipped step are not trained on again. Logged as `train/skipped_steps`.

    The running statistics of norms that are trained are what they were before the step, too; a step is also skipped
    when it is they alone that are no longer finite.

    Past `limit` skipped steps among the last thousand, the samples at fault are named, and the run ends with code 75,
    so that it goes on once from its last whole checkpoint: what a faulty device did may not happen again. The second
    time, it is an error.

    Args:
        limit: how many of a thousand steps may be skipped.
        restored: a file that says that the run was restored once.

    Raises:
        ValueError: when `limit` is negative.
    """

    def __init__(self, limit: int, restored: Path) -> None:
        if limit < 0:
            raise ValueError(f"max_skipped_steps is {limit}, expected at least 0")
        self.limit, self.restored = limit, restored
        self.skipped = 0
        self.recent: deque[int] = deque()
        self.keys: list[str] = []
        self.unread: deque[tuple[int, Tensor, list[str]]] = deque()
        self.is_bad: Tensor | None = None
        self.statistics: RunningStatistics

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.statistics = RunningStatistics(pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.is_bad is None:  # with accumulation, several batches share a step
            self.keys = []
            self.statistics.keep()
        self.keys += batch.keys

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        bad = _is_bad(loss.detach())
        self.is_bad = bad if self.is_bad is None else torch.maximum(self.is_bad, bad)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        own = torch.zeros((), device=pl_module.device) if self.is_bad is None else self.is_bad
        self.is_bad = None
        precision = trainer.precision_plugin
        # A gradient scaler looks for infinite gradients by itself: it makes them when its scale is too large.
        is_scaled = isinstance(precision, MixedPrecision) and precision.scaler is not None
        made = self.statistics.floats
        if not is_scaled:
            made = [*made, *(parameter.grad for parameter in parameters if parameter.grad is not None)]
        if made:
            own = torch.maximum(own, _are_bad(made, own.device))
        bad = own.clone()
        if all_ranks()[1] > 1:
            dist.all_reduce(bad, op=dist.ReduceOp.MAX)
        self.statistics.take_back(bad)
        if _takes_found_inf(optimizer):
            optimizer.found_inf = bad
            self.unread.append((trainer.global_step + 1, torch.stack([bad, own]), self.keys))
            # Ten steps behind, it is there without waiting.
            while len(self.unread) > 10:
                self._look(trainer, *self.unread.popleft())
        elif bad.item():
            for parameter in parameters:
                parameter.grad = None
            self._look(trainer, trainer.global_step + 1, torch.stack([bad, own]), self.keys)
        if is_logged_step(trainer):
            pl_module.log("train/skipped_steps", float(self.skipped))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        while self.unread:
            self._look(trainer, *self.unread.popleft())

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    def _look(self, trainer: Trainer, step: int, flags: Tensor, keys: list[str]) -> None:
        bad, own = flags.tolist()
        if not bad:
            return
        self.skipped += 1
        self.recent.append(step)
        while self.recent[0] <= step - WINDOW_STEPS:
            self.recent.popleft()
        if len(self.recent) > self.limit:
            self._end(trainer, step, keys if own else [])

    def _end(self, trainer: Trainer, step: int, own_keys: list[str]) -> None:
        everyone = [own_keys] * all_ranks()[1]
        if all_ranks()[1] > 1:
            dist.all_gather_object(everyone, own_keys)
        keys = ", ".join([key for theirs in everyone for key in theirs][:100])
        message = (
            f"{len(self.recent)} of the last {WINDOW_STEPS} steps had a loss or a gradient that is NaN or infinite, "
            f"more than max_skipped_steps {self.limit}; in step {step} of the samples {keys}"
        )
        was_restored = trainer.strategy.broadcast(self.restored.exists())
        if was_restored:
            raise NotFinite(
                f"{message}. The run was restored once already ({self.restored}): lower optim.lr, clip gradients "
                "(trainer.gradient_clip_val), or look at these samples"
            )
        if trainer.is_global_zero:
            self.restored.parent.mkdir(parents=True, exist_ok=True)
            files.replace_text(self.restored, message + "\n")
            print(f"\n{message}. Run the same command again: it goes on once from the last whole checkpoint")
        raise SystemExit(STOPPED)


def _is_bad(value: Tensor) -> Tensor:
    """Return 1 where a value is not finite, 0 where it is, as a scalar on its device."""
    return (~torch.isfinite(value)).any().float()


def _are_bad(tensors: list[Tensor], device: torch.device) -> Tensor:
    """Return 1 where any of this rank's tensors, or its shard of one, is not finite, else 0, as a scalar.

    By the kernel with which a gradient scaler looks, in one pass over all; a scale of 1 changes nothing.
    """
    found, scale = torch.zeros((), device=device), torch.ones((), device=device)
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        by_dtype.setdefault(own.dtype, []).append(own)
    for same in by_dtype.values():
        torch._amp_foreach_non_finite_check_and_unscale_(same, found, scale)
    return found


def _takes_found_inf(optimizer: Optimizer) -> bool:
    return all(group.get("fused") for group in optimizer.param_groups)

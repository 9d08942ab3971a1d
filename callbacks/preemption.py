"""Preemption: Ctrl-C, a scheduler's signal or a time limit end a run that can be gone on with."""

import signal
import sys
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.checkpoints import Checkpoints

STOPPED = 75
"""Exit code of "stopped, not finished" (EX_TEMPFAIL): the same command goes on."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Preemption(Callback):
    """A signal only sets a flag; at the next step boundary all ranks agree, save, and exit with code 75.

    A second Ctrl-C does not wait for the boundary.

    Args:
        checkpoints: what saves.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.received: int | None = None
        self.previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.last_step = trainer.global_step
        self.previous = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.last_step:
            return  # accumulating: no step boundary
        self.last_step = trainer.global_step
        stop = torch.tensor(float(self.received is not None), device=pl_module.device)
        if trainer.strategy.reduce(stop, reduce_op="sum") > 0:
            self.checkpoints.save(trainer)
            if trainer.is_global_zero:
                print(
                    f"\nstopped at step {trainer.global_step} of {trainer.max_steps}, saved in "
                    f"{self.checkpoints.folder}: run the same command again to go on",
                    file=sys.stderr,
                )
            raise SystemExit(STOPPED)

    def _receive(self, number: int, frame: Any) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = number

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

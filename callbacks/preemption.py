"""Preemption: Ctrl-C, a scheduler's signal or a time limit end a run that can be gone on with."""

import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from callbacks.agreement import Agreement
from callbacks.checkpoints import Checkpoints
from callbacks.signals import STOPPED, hearing


class Preemption(Callback):
    """A signal only sets a flag; at a step boundary that all ranks agree on, they save and exit with code 75.

    The same agreement says when `every_minutes` of the checkpoints have passed, by the first rank's clock.

    Args:
        checkpoints: what saves.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        hearing.defer()
        self.agreement = Agreement(2)
        self.last_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.last_step:
            return  # accumulating: no step boundary
        self.last_step = trainer.global_step
        is_due = trainer.is_global_zero and self.checkpoints.is_due
        stop, save = self.agreement.sums(float(hearing.received is not None), float(is_due))
        if trainer.global_step >= trainer.max_steps:
            return  # what is left takes less time than going on would
        if stop:
            self._stop(trainer)
        if save and self.checkpoints.last_step != trainer.global_step:
            self.checkpoints.save(trainer)

    def _stop(self, trainer: Trainer) -> None:
        self.checkpoints.save(trainer)
        self.checkpoints.finish(trainer)  # a rank that ends early makes the scheduler end the one that writes
        if trainer.is_global_zero:
            print(
                f"\nstopped at step {trainer.global_step} of {trainer.max_steps}, saved in "
                f"{self.checkpoints.folder}: run the same command again to go on",
                file=sys.stderr,
            )
        raise SystemExit(STOPPED)


class NoSignals(_SignalConnector):
    """Takes the place of Lightning's handlers, which save, and talk to other ranks, in the middle of a step.

    See https://github.com/Lightning-AI/pytorch-lightning/issues/21406 and 20542.
    """

    def register_signal_handlers(self) -> None:
        self.received_sigterm = False

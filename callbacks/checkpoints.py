"""Checkpoints: the state to resume this very stage from, written whole, the last few kept."""

import re
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

_NAME = re.compile(r"step-(\d+)\.ckpt")


class Checkpoints(Callback):
    """Save every so many optimiser steps, and keep the newest.

    Args:
        folder: where `step-00000500.ckpt` and its like go.
        every_n_steps: optimiser steps between two.
        keep: how many are kept.

    Raises:
        ValueError: when a number is not positive.
    """

    def __init__(self, folder: str | Path, *, every_n_steps: int, keep: int = 2) -> None:
        if every_n_steps < 1 or keep < 1:
            raise ValueError(f"expected positive numbers, got every_n_steps={every_n_steps} and keep={keep}")
        self.folder, self.every_n_steps, self.keep = Path(folder), every_n_steps, keep
        self.last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.last_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        # With accumulation several batches share a step: the first of them is the one that made it.
        if trainer.global_step != self.last_step and trainer.global_step % self.every_n_steps == 0:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint of the present step and remove those too old to keep; all ranks call it."""
        self.last_step = trainer.global_step
        trainer.save_checkpoint(self.folder / f"step-{trainer.global_step:08d}.ckpt", weights_only=False)
        if trainer.is_global_zero:
            for old in _all(self.folder)[: -self.keep]:
                old.unlink()


def newest(folder: str | Path) -> str | None:
    """Return the path of the checkpoint with the most steps, None where there is none."""
    checkpoints = _all(Path(folder))
    return str(checkpoints[-1]) if checkpoints else None


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*.ckpt") if _NAME.fullmatch(path.name))

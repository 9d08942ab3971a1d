"""Checkpoints: the state to resume this very stage from, written whole, the last few and the best kept."""

import errno
import os
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning_utilities.core.apply_func import apply_to_collection

from callbacks import checkpoint_file as files
from modules.collectives import all_ranks
from modules.optimizer_state import names_of
from modules.parallel import plain_name
from modules.sharded_checkpoint import open_shards

OWNER = ".owner"
BEST = "best.ckpt"


@dataclass
class Best:
    """Which checkpoint is the best one."""

    score: str = "val/loss"
    """Name of a figure of the validation, as it is logged."""
    mode: Literal["min", "max"] = "min"
    """Whether a small score is good or a large one."""

    def is_better(self, score: float, than: float | None) -> bool:
        """Compare two scores; NaN is never better, anything else is better than none."""
        if score != score:
            return False
        return than is None or (score < than if self.mode == "min" else score > than)


class TakenOver(RuntimeError):
    """Another process writes the checkpoints of this run by now."""


class Checkpoints(Callback):
    """Save every so many steps or minutes, in a thread beside the training, and keep the newest and the best.

    What a step waits for is a copy of the state in memory; the writing goes on beside the next steps. A strategy that
    writes shards from all ranks is waited for. A save that fails, as on a full disk, is warned of and leaves what was
    there. Costs are logged as `checkpoint/blocking_s`, `checkpoint/writing_s`, `checkpoint/bytes` and
    `checkpoint/time_share`, the share of the training's time that steps waited.

    Args:
        folder: where `step-00000500.ckpt` and its like go.
        every_n_steps: optimiser steps between two.
        every_minutes: minutes between two, by the clock of the first rank; None for steps alone.
        keep: how many of the newest are kept.
        best: which one is kept besides; None for none.

    Raises:
        ValueError: when a number is not positive.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every_n_steps: int,
        every_minutes: float | None = None,
        keep: int = 2,
        best: Best | None = None,
    ) -> None:
        if every_n_steps < 1 or keep < 1 or (every_minutes is not None and not every_minutes > 0):
            raise ValueError(
                f"expected positive numbers, got every_n_steps={every_n_steps}, every_minutes={every_minutes} "
                f"and keep={keep}"
            )
        self.folder, self.every_n_steps, self.every_minutes = Path(folder), every_n_steps, every_minutes
        self.keep, self.best = keep, best
        self.best_score: float | None = None
        self.is_best = False
        self.not_finite: list[str] = []
        self.last_step = 0
        self.in_memory = InMemory()
        self.writing: Future[dict[str, float]] | None = None  # its result is what it cost
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self.owner = uuid.uuid4().hex
        self.costs: dict[str, float] = {}
        self.started = self.saved_at = time.monotonic()
        self.blocked_s = 0.0

    # ---- when

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        buffers = ((name, buffer) for name, buffer in pl_module.named_buffers() if buffer.is_floating_point())
        # Such as a mask of minus infinities: no sign of a training that diverged, as it would be of one that began.
        self.not_finite = [f"state_dict.{plain_name(name)}" for name, b in buffers if not b.isfinite().all()]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.last_step = trainer.global_step
        self.started = self.saved_at = time.monotonic()
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            files.sweep(self.folder)
            files.replace_text(self.folder / OWNER, self.owner)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        # With accumulation several batches share a step: the first of them is the one that made it. The last step is
        # saved when its validation is through and its parts are written: nothing is left to be done from it.
        step = trainer.global_step
        if self.last_step != step < trainer.max_steps and step % self.every_n_steps == 0:
            self.save(trainer)
        if self.writing is not None and self.writing.done():
            self._wait()
        if self.costs:
            pl_module.log_dict(self.costs)
            self.costs = {}

    @property
    def is_due(self) -> bool:
        """Whether `every_minutes` have passed by this process's clock."""
        return self.every_minutes is not None and time.monotonic() - self.saved_at >= 60 * self.every_minutes

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn is not TrainerFn.FITTING or trainer.sanity_checking or self.best is None:
            return
        score = trainer.callback_metrics.get(self.best.score)
        if score is None:
            known = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
            raise ValueError(
                f"keep_best.score is '{self.best.score}', the validation gives {', '.join(known)}"
            )
        # Scores are equal on all ranks when they are logged so; the first rank decides, to be sure of it.
        self.is_best = trainer.strategy.broadcast(self.best.is_better(float(score), self.best_score))
        if self.is_best:
            self.best_score = float(score)
        if self.is_best and trainer.global_step < trainer.max_steps:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)
        self.finish(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._wait()

    # ---- what comes back with a checkpoint

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score = state_dict["best_score"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["not_finite"] = self.not_finite
        checkpoint["optimizer_groups"] = [names_of(pl_module, optimizer) for optimizer in trainer.optimizers]

    # ---- how

    def save(self, trainer: Trainer) -> None:
        """Begin to write a checkpoint of the present step; all ranks call it.

        Raises:
            TakenOver: when another process has gone on with this run meanwhile.
        """
        began = time.monotonic()
        self._wait()
        is_best, self.is_best = self.is_best, False
        self.last_step, self.saved_at = trainer.global_step, began
        path = self.folder / f"step-{trainer.global_step:08d}.ckpt"
        temporary = path.with_name(files.WRITING + path.name)
        trainer.save_checkpoint(temporary, weights_only=False)
        content = self.in_memory.take()
        if trainer.strategy.broadcast(temporary.is_dir()):
            self._publish_shards(temporary, path, is_best)
        elif content is not None:
            self.writing = self.thread.submit(self._write, content, temporary, path, is_best)
        self.costs["checkpoint/blocking_s"] = time.monotonic() - began
        self.blocked_s += time.monotonic() - began
        self.costs["checkpoint/time_share"] = self.blocked_s / max(time.monotonic() - self.started, 1e-9)

    def finish(self, trainer: Trainer) -> None:
        """Wait until the last checkpoint is whole; all ranks call it."""
        self._wait()
        trainer.strategy.barrier("checkpoints")

    def _wait(self) -> None:
        if self.writing is not None:
            writing, self.writing = self.writing, None
            self.costs |= writing.result()

    def _write(self, content: dict[str, Any], temporary: Path, path: Path, is_best: bool) -> dict[str, float]:
        began = time.monotonic()
        try:
            files.check_content(content)
            try:
                digest = files.write(content, temporary)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._make_room():
                    raise
                digest = files.write(content, temporary)
            size = temporary.stat().st_size
            self._publish(temporary, path, {path.name: digest}, is_best)
        except (OSError, files.CheckpointError) as error:
            temporary.unlink(missing_ok=True)
            rank_zero_warn(f"{path.name} was not saved ({error}); the one before it stays the newest")
            return {}
        return {"checkpoint/writing_s": time.monotonic() - began, "checkpoint/bytes": float(size)}

    def _publish_shards(self, temporary: Path, path: Path, is_best: bool) -> None:
        """Share the reading of what all ranks wrote, then give it its name."""
        rank, world_size = all_ranks()
        for file in files.files_of(temporary)[rank::world_size]:
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        mine = files.checksums(temporary, path.name, rank, world_size)
        everyone: list[dict[str, str]] = [mine] * world_size
        if world_size > 1:
            torch.distributed.all_gather_object(everyone, mine)
        if rank == 0:
            self._publish(
                temporary, path, {name: d for part in everyone for name, d in part.items()}, is_best
            )
        if world_size > 1:
            torch.distributed.barrier()

    def _publish(self, temporary: Path, path: Path, sums: dict[str, str], is_best: bool) -> None:
        owner = (self.folder / OWNER).read_text(encoding="utf-8")
        if owner != self.owner:
            raise TakenOver(
                f"another process goes on with the run in {self.folder.parent}, as when a scheduler gave up a node "
                "that was still alive; this one ends"
            )
        files.publish(temporary, path, sums)
        if is_best:
            files.point(self.folder / BEST, path)
        for old in self._old(self.keep):
            files.remove(old)

    def _old(self, keep: int) -> list[Path]:
        """Return the checkpoints behind the newest `keep`, the oldest first, the best one excepted."""
        best = (self.folder / BEST).resolve().name
        named = [path for path in files.candidates(self.folder) if files.step_of(path) is not None]
        return [path for path in reversed(named[keep:]) if path.name != best]

    def _make_room(self) -> bool:
        """Remove one of several old checkpoints, for a full disk; return whether there was one."""
        old = self._old(1)
        if old:
            files.remove(old[0])
        return bool(old)


class InMemory(CheckpointIO):
    """Takes the place of Lightning's writer of files: copies the state, so that training may go on with it."""

    def __init__(self) -> None:
        self.content: dict[str, Any] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.content = apply_to_collection(checkpoint, torch.Tensor, _copied)

    def take(self) -> dict[str, Any] | None:
        """Return what was saved last and forget it."""
        content, self.content = self.content, None
        return content

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return the content of a file, or of a directory of shards as one file would hold it."""
        if Path(path).is_dir():
            return open_shards(Path(path)).whole()
        return torch.load(path, map_location="cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        files.remove(Path(path))


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)

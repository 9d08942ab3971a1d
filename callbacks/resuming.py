"""Resuming: the newest whole checkpoint, the same on all ranks; nothing where only broken ones are left."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from callbacks import checkpoint_file as files
from callbacks.checkpoint_file import CheckpointError
from modules.collectives import all_ranks
from modules.optimizer_state import StateError, by_name, names_of, numbered, regrouped, regrouped_schedule
from modules.shard_map import ShardsError
from modules.sharded_checkpoint import check as check_shards
from modules.sharded_checkpoint import is_sharded


class Resuming(_CheckpointConnector):
    """Takes the place of what Lightning's trainer restores with, which believes any file it is given.

    Checkpoints are looked at once the ranks can talk to each other, before the model is moved: the first rank looks at
    a file, all ranks share the files of a folder.

    Args:
        trainer: whose place it is.
        folder: the run's checkpoints.
    """

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        super().__init__(trainer)
        self.folder = folder

    @property
    def _hpc_resume_path(self) -> str | None:
        return None  # what another job's handler left in the directory

    def resume_start(self, checkpoint_path: Any = None, weights_only: bool | None = None) -> None:
        """Load the checkpoint that is asked for, or else the newest whole one of the run.

        Raises:
            CheckpointError: when that one is broken, or all of them are.
        """
        is_fit = self.trainer.state.fn is TrainerFn.FITTING
        chosen = self._asked(checkpoint_path) if checkpoint_path else self._newest_whole() if is_fit else None
        if is_fit and chosen is not None:
            rank_zero_info(f"going on from {chosen}")
        super().resume_start(chosen, weights_only=True)

    def restore_model(self) -> None:
        """Restore the weights, once they are known to be this model's.

        Raises:
            CheckpointError: names the tensors that differ.
        """
        # Where a strategy restores after it has sharded the model, it compares by itself.
        if self._loaded_checkpoint and not self.trainer.strategy.restore_checkpoint_after_setup:
            state = self._loaded_checkpoint["state_dict"]
            self._loaded_checkpoint["state_dict"] = fitted(state, self.trainer.lightning_module)
        super().restore_model()

    def restore_optimizers(self) -> None:
        """Restore the optimisers, whose parameters may be grouped otherwise than when they were saved.

        Raises:
            StateError: when they have other parameters, or are not as many.
        """
        loaded = self._loaded_checkpoint
        if "optimizer_groups" in loaded and "optimizer_states" in loaded:
            states, groups, names = loaded["optimizer_states"], loaded["optimizer_groups"], self._names()
            if not len(states) == len(groups) == len(names):
                raise StateError(
                    f"the checkpoint has states of {len(states)} optimisers and names of {len(groups)}, this run has "
                    f"{len(names)}: it is damaged, or of another model"
                )
            loaded["optimizer_states"] = [
                numbered(regrouped(by_name(state, saved), own))
                for state, saved, own in zip(states, groups, names, strict=True)
            ]
        super().restore_optimizers()

    def restore_lr_schedulers(self) -> None:
        """Restore the schedules, for the groups that there are now."""
        loaded = self._loaded_checkpoint
        if "optimizer_groups" in loaded:
            optimizers = self.trainer.optimizers
            numbers = [optimizers.index(c.scheduler.optimizer) for c in self.trainer.lr_scheduler_configs]
            names = self._names()
            loaded["lr_schedulers"] = [
                regrouped_schedule(state, loaded["optimizer_groups"][number], names[number])
                for state, number in zip(loaded["lr_schedulers"], numbers, strict=True)
            ]
        super().restore_lr_schedulers()

    def _names(self) -> list[list[list[str]]]:
        return [names_of(self.trainer.lightning_module, optimizer) for optimizer in self.trainer.optimizers]

    def _asked(self, path: Any) -> Path:
        if "://" in str(path):
            raise CheckpointError(f"--ckpt_path {path} is a URL: copy the checkpoint to a disk first")
        if reason := self._what_is_wrong(Path(path)):
            raise CheckpointError(f"{path} cannot be used: {reason}")
        return Path(path)

    def _newest_whole(self) -> Path | None:
        listed = self.trainer.strategy.broadcast([str(path) for path in files.candidates(self.folder)])
        broken = {}
        for path in map(Path, listed):
            step = files.step_of(path)
            if step is not None and step >= self.trainer.max_steps:
                continue  # of a run that was killed before it had said that it is finished: make the last steps again
            reason = self._what_is_wrong(path)
            if not reason:
                self._set_aside(broken)
                return path
            broken[path] = reason
        reasons = "; ".join(f"{path.name}: {reason}" for path, reason in broken.items())
        if broken:
            raise CheckpointError(
                f"{self.folder} holds no whole checkpoint ({reasons}). To train from the start, remove {self.folder}"
            )
        link = self.folder / files.LATEST
        if link.is_symlink() and not link.exists():
            raise CheckpointError(
                f"{link} names {os.readlink(link)}, which is missing: bring it back, or remove {self.folder} to train "
                "from the start"
            )
        return None

    def _what_is_wrong(self, path: Path) -> str | None:
        """Return why a checkpoint cannot be gone on from, the same on all ranks; None when it can."""
        rank, world_size = all_ranks()
        is_folder = self.trainer.strategy.broadcast(path.is_dir())
        mine = None
        if is_folder or rank == 0:
            mine = _reason(path, rank, world_size if is_folder else 1)
        everyone = [mine] * world_size
        if world_size > 1:
            torch.distributed.all_gather_object(everyone, mine)
        return next((reason for reason in everyone if reason), None)

    def _set_aside(self, broken: dict[Path, str]) -> None:
        """Rename what is broken, so that it does not count among those that are kept."""
        for path, reason in broken.items():
            rank_zero_warn(f"{path} is broken: {reason}; it is set aside as {path.name}{files.BROKEN}")
            if self.trainer.is_global_zero:
                os.replace(path, path.with_name(path.name + files.BROKEN))
                files.checksum_path(path).unlink(missing_ok=True)


def _reason(path: Path, rank: int, world_size: int) -> str | None:
    try:
        if not path.exists():
            raise CheckpointError("there is nothing of that name")
        if files.checksum_path(path).exists():
            files.check_sums(path, rank, world_size)
        elif path.is_dir():
            raise CheckpointError(f"it has no {files.checksum_path(path).name} to compare it with")
        if not path.is_dir():
            files.read(path)
        elif is_sharded(path):
            check_shards(path, rank, world_size)
    except (CheckpointError, ShardsError, OSError, UnicodeDecodeError) as error:
        return str(error)
    return None


def fitted(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Return saved weights under the module's names and in its precision.

    Names that `torch.compile` or DDP put a prefix to lose it.

    Raises:
        CheckpointError: names the tensors that are missing, too many or of another shape.
    """
    expected = module.state_dict()
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
    if not expected.keys() & state.keys() and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if missing := sorted(expected.keys() - state.keys()):
        raise CheckpointError(f"the checkpoint lacks {len(missing)} tensors of this model: {_few(missing)}")
    if unknown := sorted(state.keys() - expected.keys()):
        raise CheckpointError(
            f"the checkpoint has {len(unknown)} tensors that this model lacks: {_few(unknown)}"
        )
    for name, tensor in state.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.is_floating_point() != wanted.is_floating_point():
            raise CheckpointError(
                f"the checkpoint's tensor {name} is {tensor.dtype} {list(tensor.shape)}, this model's is "
                f"{wanted.dtype} {list(wanted.shape)}: it belongs to another model"
            )
    return {name: tensor.to(expected[name].dtype) for name, tensor in state.items()}


def _few(names: list[str]) -> str:
    return ", ".join(names[:5])

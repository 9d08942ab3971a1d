"""Restoring: a checkpoint's content goes into a model that is spread over ranks, however it was spread when saved."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.futures import Future
from torch.optim import Optimizer

from modules.optimizer_state import StateError, by_name, names_of, regrouped
from modules.parallel import plain_name
from modules.sharded_checkpoint import Shards, ShardsError, open_shards


def restore(path: Path, module: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
    """Load a rank's shards of weights and optimiser states in place, and return what else the checkpoint holds.

    All ranks call it.

    Args:
        path: one file, or a directory of shards.
        module, optimizers: spread over the ranks already.

    Raises:
        ShardsError: names the tensors that are missing, too many or of another shape.
        StateError: when the optimisers' parameters are others, or a file does not say which they are.
    """
    if path.is_dir():
        return _restore_from_shards(open_shards(path), module, optimizers)
    checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return _restore_from_whole(checkpoint, module, optimizers)


def _restore_from_shards(
    shards: Shards, module: nn.Module, optimizers: Sequence[Optimizer]
) -> dict[str, Any]:
    rest = shards.rest()
    rest["optimizer_groups"] = []
    weights = get_model_state_dict(module)
    if differing := sorted(weights.keys() ^ set(shards.below("state_dict"))):
        raise ShardsError(
            f"checkpoint and model differ in {len(differing)} tensors ({', '.join(differing[:3])}): it belongs to "
            "another model"
        )
    _read("state_dict", weights, shards)
    set_model_state_dict(module, weights)
    for number, optimizer in enumerate(optimizers):
        saved = shards.optimizer(number)
        rest["optimizer_groups"].append([group["params"] for group in saved["param_groups"]])
        had = {path.rpartition(".")[0] for path in saved["state"]}
        fresh = get_optimizer_state_dict(module, optimizer)["state"]
        state = {name: own for name, own in fresh.items() if name in had}
        flat = {f"{name}.{entry}": value for name, own in state.items() for entry, value in own.items()}
        _read(f"optimizer_{number}.state", flat, shards)
        mine = regrouped({**saved, "state": state}, names_of(module, optimizer))
        set_optimizer_state_dict(
            module, optimizer, optim_state_dict=mine, options=StateDictOptions(strict=False)
        )
        _forget_fresh(module, optimizer, had)
    return rest


def _restore_from_whole(
    checkpoint: dict[str, Any], module: nn.Module, optimizers: Sequence[Optimizer]
) -> dict[str, Any]:
    set_model_state_dict(module, checkpoint.pop("state_dict"), options=StateDictOptions(full_state_dict=True))
    states = checkpoint.pop("optimizer_states", [])
    if optimizers and "optimizer_groups" not in checkpoint:
        raise StateError(
            "the checkpoint does not say which parameters its optimiser states are of: go on with the strategy that "
            "wrote it"
        )
    for number, optimizer in enumerate(optimizers):
        saved = by_name(states[number], checkpoint["optimizer_groups"][number])
        mine = regrouped(saved, names_of(module, optimizer))
        set_optimizer_state_dict(
            module,
            optimizer,
            optim_state_dict=mine,
            options=StateDictOptions(full_state_dict=True, strict=False),
        )
        _forget_fresh(module, optimizer, saved["state"].keys())
    return checkpoint


def _forget_fresh(module: nn.Module, optimizer: Optimizer, had: Collection[str]) -> None:
    """Forget the states that torch made up of parameters that had none, such as those that no loss depends on."""
    for name, parameter in module.named_parameters():
        if plain_name(name) not in had:
            optimizer.state.pop(parameter, None)


def _read(prefix: str, tensors: Mapping[str, Tensor], shards: Shards) -> None:
    """Read tensors in place, from all pieces that overlap with this rank's shards of them."""
    for name, tensor in tensors.items():
        about = shards.tensors.get(f"{prefix}.{name}")
        if about is None or about.shape != tuple(tensor.shape):
            found = "is missing" if about is None else f"is {list(about.shape)}"
            raise ShardsError(f"its tensor {prefix}.{name} {found}, this model's is {list(tensor.shape)}")
    dcp.load({f"{prefix}.{name}": tensor for name, tensor in tensors.items()}, storage_reader=_Reader(shards))


class _Reader(dcp.StorageReader):
    """Gives torch the pieces of checked shards; its own reader would unpickle what it finds."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return Metadata(
            {
                name: TensorStorageMetadata(
                    TensorProperties(about.dtype),
                    torch.Size(about.shape),
                    [
                        ChunkStorageMetadata(torch.Size(piece.begin), torch.Size(piece.sizes))
                        for piece in about.pieces
                    ],
                )
                for name, about in self.shards.tensors.items()
            }
        )

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in plan.items:
            index = item.storage_index
            pieces = self.shards.tensors[index.fqn].pieces
            piece = next(piece for piece in pieces if piece.begin == tuple(index.offset or ()))
            wanted = tuple(
                slice(begin, begin + size)
                for begin, size in zip(item.storage_offsets, item.lengths, strict=True)
            )
            target = planner.resolve_tensor(item).detach()
            target.copy_(self.shards.piece(index.fqn, piece)[wanted])
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def reset(self, checkpoint_id: Any = None) -> None: ...

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None: ...

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True

"""Checkpoints of shards, as torch.distributed.checkpoint writes them, read by one process and with no trust.

step-00000500.ckpt/
  .metadata       which piece of which tensor lies where (modules/shard_map.py)
  __0_0.distcp    the pieces of a rank, one behind the other, each as `torch.save` writes it
  meta.pt         what Lightning keeps beside the tensors
"""

import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from modules.shard_map import METADATA, Described, Piece, ShardsError, one_line, read_map

REST: Final = "meta.pt"


@dataclass(frozen=True)
class Shards:
    """What a checkpoint's directory says that it holds.

    Args:
        folder: the directory.
        tensors: by name.
        values: where plain values lie, by name.
    """

    folder: Path
    tensors: dict[str, Described]
    values: dict[str, Piece]

    def tensor(self, name: str) -> Tensor:
        """Put a tensor together from its pieces, on the CPU.

        Raises:
            ShardsError: when a piece is damaged, or not what was said of it.
        """
        about = self.tensors[name]
        found = torch.zeros(about.shape, dtype=about.dtype)
        for piece in about.pieces:
            index = tuple(slice(b, b + s) for b, s in zip(piece.begin, piece.sizes, strict=True))
            found[index] = self.piece(name, piece)
        return found

    def piece(self, name: str, piece: Piece) -> Tensor:
        """Read one piece of a tensor.

        Raises:
            ShardsError: as `tensor` does.
        """
        found = _load(name, piece)
        dtype = self.tensors[name].dtype
        if (
            not isinstance(found, Tensor)
            or found.layout is not torch.strided
            or (found.dtype, tuple(found.shape)) != (dtype, piece.sizes)
        ):
            raise ShardsError(
                f"a piece of tensor {name} is not {dtype} {list(piece.sizes)}, as was said of it"
            )
        return found

    def value(self, name: str) -> Any:
        """Read a plain value, such as a learning rate.

        Raises:
            ShardsError: when it is more than tensors and plain values.
        """
        return _load(name, self.values[name])

    def rest(self) -> dict[str, Any]:
        """Return what is kept beside the tensors: step, cards of the parts, the data's cursor.

        Raises:
            ShardsError: as `value` does.
        """
        file = self.folder / REST
        try:
            found = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds here; each means that the file cannot be trusted
            raise ShardsError(
                f"its {REST} is not made of plain values alone, or is cut ({one_line(error)})"
            ) from error
        if not isinstance(found, dict):
            raise ShardsError(
                f"its {REST} holds a {type(found).__name__}, expected what Lightning keeps there"
            )
        return found

    def optimizer(self, number: int) -> dict[str, Any]:
        """Return an optimiser's groups, whose parameters are names, and below `state` what it keeps of each, unread.

        Raises:
            ShardsError: as `value` does.
        """
        groups: dict[int, dict[str, Any]] = {}
        for path, value in self.below(f"optimizer_{number}.param_groups").items():
            group, _, setting = path.partition(".")
            groups.setdefault(int(group), {})[setting] = value
        ordered = [groups[index] for index in sorted(groups)]
        if not ordered or not all(isinstance(group.get("params"), list) for group in ordered):
            raise ShardsError(f"it does not say which parameters optimiser {number} had")
        return {"state": self.below(f"optimizer_{number}.state"), "param_groups": ordered}

    def whole(self) -> dict[str, Any]:
        """Return everything, as one file of Lightning's would hold it; optimiser states are by name.

        Raises:
            ShardsError: as `tensor` does.
        """
        found = self.rest()
        found["state_dict"] = dict(self.below("state_dict"))
        found["optimizer_states"], found["optimizer_groups"] = [], []
        for number in range(self.num_optimizers):
            saved = self.optimizer(number)
            state: dict[str, dict[str, Any]] = {}
            for path, value in saved["state"].items():
                name, _, entry = path.rpartition(".")
                state.setdefault(name, {})[entry] = value
            found["optimizer_states"].append({"state": state, "param_groups": saved["param_groups"]})
            found["optimizer_groups"].append([group["params"] for group in saved["param_groups"]])
        return found

    @property
    def num_optimizers(self) -> int:
        """How many optimisers it holds anything of."""
        heads = {name.partition(".")[0] for name in (*self.tensors, *self.values)}
        return sum(1 for head in heads if head.startswith("optimizer_"))

    def below(self, prefix: str) -> "Below":
        """Return what is stored below a prefix, such as `state_dict`, by the names that follow it."""
        return Below(self, prefix + ".")


@dataclass(frozen=True)
class Below(Mapping[str, Any]):
    """Tensors and values of shards, each read when it is asked for."""

    shards: Shards
    prefix: str

    def __getitem__(self, name: str) -> Any:
        whole_name = self.prefix + name
        if whole_name in self.shards.tensors:
            return self.shards.tensor(whole_name)
        return self.shards.value(whole_name)

    def __iter__(self) -> Iterator[str]:
        names = (*self.shards.tensors, *self.shards.values)
        return (name.removeprefix(self.prefix) for name in names if name.startswith(self.prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return f"{self.prefix}{name}" in self.shards.tensors.keys() | self.shards.values.keys()


def is_sharded(folder: Path) -> bool:
    """Return whether a directory is, by its names, a checkpoint of shards."""
    return (folder / METADATA).is_file() and (folder / REST).is_file()


def open_shards(folder: Path) -> Shards:
    """Read what a directory says that it holds, none of its tensors.

    Raises:
        ShardsError: when it says anything but tensors and values that lie in its own files.
    """
    return Shards(folder, *read_map(folder))


def check(folder: Path, rank: int = 0, world_size: int = 1) -> None:
    """Read this rank's share of all pieces, and what is beside them: all plain, all numbers finite, nothing emptied.

    Raises:
        ShardsError: says what is wrong.
    """
    shards = open_shards(folder)
    rest = shards.rest()
    if not isinstance(rest.get("global_step"), int) or rest["global_step"] < 0:
        raise ShardsError(f"its global_step is {rest.get('global_step')!r}, expected a number of steps")
    if not len(shards.below("state_dict")):
        raise ShardsError("it holds no weights")
    _check_optimizers(shards, rest["global_step"])
    exempt = set(rest.get("not_finite", ()))
    for name, piece in list(_pieces(shards))[rank::world_size]:
        if name in shards.values:
            shards.value(name)
            continue
        found = shards.piece(name, piece)
        if found.is_floating_point() and name not in exempt and not found.isfinite().all():
            raise ShardsError(f"its tensor {name} holds NaN or infinity")


def _check_optimizers(shards: Shards, step: int) -> None:
    if not shards.num_optimizers:
        raise ShardsError("it holds no optimiser state: it cannot be gone on from")
    for number in range(shards.num_optimizers):
        saved = shards.optimizer(number)
        keeps = any("betas" in group or group.get("momentum") for group in saved["param_groups"])
        if step and keeps and not saved["state"]:
            raise ShardsError(f"its optimiser state is empty after {step} steps")


def _pieces(shards: Shards) -> Iterator[tuple[str, Piece]]:
    for name, about in shards.tensors.items():
        for piece in about.pieces:
            yield name, piece
    yield from shards.values.items()


def _load(name: str, piece: Piece) -> Any:
    with open(piece.file, "rb") as file:
        file.seek(piece.offset)
        data = io.BytesIO(file.read(piece.length))
    try:
        with zipfile.ZipFile(data) as archive:
            entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ShardsError(f"{name} in {piece.file.name} is compressed, which torch never writes")
        if sum(entry.file_size for entry in entries) > piece.length:
            raise ShardsError(f"{name} in {piece.file.name} claims more bytes than it has")
        data.seek(0)
        return torch.load(data, map_location="cpu", weights_only=True)
    except ShardsError:
        raise
    except Exception as error:  # torch raises many kinds here; each means that the piece cannot be trusted
        raise ShardsError(
            f"{name} in {piece.file.name} is not made of tensors and plain values alone, or is damaged "
            f"({one_line(error)})"
        ) from error

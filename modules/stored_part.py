"""Stored parts: card, weights and assets as they lie in a part folder or in a checkpoint, read but not yet built."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.card import (
    CARD,
    WEIGHTS,
    PartError,
    check_tensors,
    checked,
    file_of,
    named,
    read_card,
    same_names,
    sha256,
)
from modules.origin import weightless
from modules.shard_map import METADATA, ShardsError
from modules.sharded_checkpoint import REST, is_sharded, open_shards

SHARDED = ("*-of-*.safetensors", "*.safetensors.index.json", "*.distcp", ".metadata")
"""What directories of sharded weights hold, by pattern."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class StoredPart:
    """A part's content, checked against its card.

    Args:
        path: where it was read, as it was asked for.
        card: what it says of itself.
        tensors: its weights by name.
        assets: its text files by name.
    """

    path: str
    card: dict[str, Any]
    tensors: dict[str, Tensor]
    assets: dict[str, str]


def read(path: str) -> StoredPart:
    """Read a part from a folder, or from a checkpoint as `CHECKPOINT#part`, and check every tensor.

    Where modules are built for their shapes alone, weights are neither read nor checked.

    Raises:
        PartError: names what was found, what was expected and what to do.
    """
    if "#" in path:
        checkpoint, part = path.rsplit("#", 1)
        stored = _of_checkpoint(Path(checkpoint), part, path)
    else:
        stored = _of_folder(Path(path), path)
    if not weightless():
        check_tensors(stored.card, stored.tensors, path)
    return stored


def _of_folder(folder: Path, path: str) -> StoredPart:
    from safetensors import SafetensorError, safe_open

    card = read_card(folder)
    file = file_of(folder, WEIGHTS)
    if file is None:
        raise PartError(f"{folder} has no {WEIGHTS}: {_what_lies_there(folder)}")
    try:
        with safe_open(file, framework="pt") as weights:
            # Names first: what the card does not know is not read into memory.
            same_names(card["tensors"], weights.keys(), f"the card of {path}", "the weights")
            names = [] if weightless() else weights.keys()
            tensors = {name: weights.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise PartError(
            f"{file} is damaged, or no safetensors file ({error}); write the part again from its checkpoint"
        ) from error
    return StoredPart(path, card, tensors, _assets(folder, card))


def _assets(folder: Path, card: dict[str, Any]) -> dict[str, str]:
    assets = {}
    for name, expected in card["assets"].items():
        file = file_of(folder, name) if isinstance(name, str) and Path(name).name == name else None
        if file is None:
            raise PartError(f"{folder} lacks the file '{name}' that its card names; write the part again")
        assets[name] = _checked_asset(file.read_bytes(), expected, str(file))
    return assets


def _checked_asset(content: bytes, expected: str, where: str) -> str:
    if sha256(content) != expected:
        raise PartError(
            f"{where} is not the file that the card was written with: its sha256 differs; "
            "put the right one back, or write the part again"
        )
    return content.decode("utf-8")


def _what_lies_there(folder: Path) -> str:
    if any(next(folder.glob(pattern), None) for pattern in SHARDED):
        return "it holds shards of weights, expected whole ones; write the part again from its checkpoint"
    for pattern in PICKLES:
        if found := next(folder.glob(pattern), None):
            return (
                f"it holds {found.name}, and pickles are not read; write the part again from its checkpoint"
            )
    return "the part is incomplete; write it again from its checkpoint"


# ---- checkpoints


def _of_checkpoint(file: Path, part: str, path: str) -> StoredPart:
    checkpoint = _read_checkpoint(file, part)
    parts = checkpoint.get("parts")
    if not isinstance(parts, dict) or not parts:
        raise PartError(f"{file} holds no parts: it was not written by one of this project's stages")
    if part not in parts:
        raise PartError(f"{file} holds no part '{part}'; it holds: {named(sorted(parts), part)}")
    try:
        card, assets, prefix = (parts[part][key] for key in ("card", "assets", "prefix"))
        state: Mapping[str, Tensor] = checkpoint["state_dict"]
        if not isinstance(state, Mapping) or not isinstance(prefix, str):
            raise TypeError("its weights are not by name")
    except (KeyError, TypeError, ValueError) as error:
        raise PartError(
            f"{file} does not say of part '{part}' what a stage's checkpoint says ({error}); take another one"
        ) from error
    card = checked(card, path)
    same_names(card["assets"], assets, f"the card of {path}", "the assets")
    texts = {
        name: _checked_asset(text.encode(), card["assets"][name], f"{name} of {path}")
        for name, text in assets.items()
    }
    names = [] if weightless() else [name for name in card["tensors"] if prefix + name in state]
    try:
        tensors = {name: state[prefix + name] for name in names}
    except ShardsError as error:
        raise PartError(f"{path} cannot be read: {error}; take an earlier checkpoint") from error
    return StoredPart(path, card, tensors, texts)


def _read_checkpoint(file: Path, part: str) -> dict[str, Any]:
    """Return what a checkpoint holds: `parts` and `state_dict` among it."""
    if file.is_dir():
        return _read_shards(file, part)
    if not file.is_file():
        there = sorted(path.name for path in file.parent.glob("*.ckpt"))
        beside = f"; {file.parent} holds: {named(there, file.name)}" if there else ""
        raise PartError(
            f"no checkpoint at {file}: expected a Lightning checkpoint file before '#{part}'{beside}"
        )
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds here; each means that the file cannot be trusted
        raise PartError(
            f"{file} is not a readable checkpoint of tensors and plain values ({error}); take an earlier one"
        ) from error
    if not isinstance(checkpoint, dict):
        raise PartError(f"{file} holds a {type(checkpoint).__name__}, expected a Lightning checkpoint")
    return checkpoint


def _read_shards(folder: Path, part: str) -> dict[str, Any]:
    """Return what a directory of shards holds; a tensor is read when it is asked for."""
    if not is_sharded(folder):
        found = any(next(folder.glob(pattern), None) for pattern in SHARDED)
        kind = (
            "a directory of shards" if found else f"a directory{' with a card' * (folder / CARD).is_file()}"
        )
        raise PartError(
            f"{folder} is {kind}, expected a Lightning checkpoint before '#{part}': a file, or a directory with "
            f"{METADATA} and {REST}; name one, or a part folder"
        )
    try:
        shards = open_shards(folder)
        return {**shards.rest(), "state_dict": shards.below("state_dict")}
    except ShardsError as error:
        raise PartError(
            f"{folder} is not a readable checkpoint of shards: {error}; take an earlier one"
        ) from error

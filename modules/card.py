"""Cards: what a part's card must say, how it is read from a folder, and what its tensors are checked against."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from torch import Tensor, nn

CARD: Final = "card.yaml"
WEIGHTS: Final = "weights.safetensors"
VERSION: Final = 1
MAX_CARD_BYTES: Final = 16 << 20
MAX_CARD_DEPTH: Final = 64
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KINDS: Final = {"class_path": str, "init_args": dict, "assets": dict, "tensors": dict}
_OTHER_KINDS: Final = {"adapter": dict, "siblings": dict, "merged_from": str}


class PartError(ValueError):
    """A part that is missing, damaged, or not what its card says."""


class _Dumper(yaml.SafeDumper):
    """Writes a value that stands in two places twice: readers take no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def as_yaml(card: Mapping[str, Any]) -> str:
    """Return a card as it stands in its file."""
    return yaml.dump(dict(card), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_card(folder: str | Path) -> dict[str, Any]:
    """Read the card of a part folder without its weights.

    Raises:
        PartError: when there is none, or it is not a card.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PartError(f"no part at {folder}: expected a folder with {CARD}; {nearby(folder)}")
    file = file_of(folder, CARD)
    if file is None:
        raise PartError(f"{folder} is not a part: it has no {CARD}; {nearby(folder)}")
    if file.stat().st_size > MAX_CARD_BYTES:
        raise PartError(f"{file} has {file.stat().st_size} bytes, more than {MAX_CARD_BYTES}: not a card")
    try:
        text = file.read_text(encoding="utf-8")
        _check_nesting(text, file)
        card = yaml.load(text, Loader=_LOADER)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: also no UTF-8, or a date that is none
        if isinstance(error, PartError):
            raise
        raise PartError(f"{file} is not readable as YAML ({error}); write the part again") from error
    return checked(card, str(file))


def _check_nesting(text: str, file: Path) -> None:
    """Refuse, before PyYAML builds anything, what would exhaust its stack (a crash) or grow by aliases."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise PartError(
                f"{file} has a YAML alias (*{event.anchor}): cards have none; write the part again"
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_CARD_DEPTH:
            raise PartError(f"{file} is nested more than {MAX_CARD_DEPTH} deep: not a card")


def checked(card: Any, where: str) -> dict[str, Any]:
    """Return a card that has all of its entries, each of its kind.

    Raises:
        PartError: says which is missing or another.
    """
    if not isinstance(card, dict):
        raise PartError(f"{where} holds {type(card).__name__}, expected a mapping: not a card")
    missing = [key for key in ("version", *_KINDS) if key not in card]
    if missing:
        raise PartError(f"{where} lacks {', '.join(missing)}: not a whole card; write the part again")
    if card["version"] != VERSION:
        raise PartError(
            f"{where} is a card of version {card['version']}, this project reads version {VERSION}"
        )
    for key, kind in {**_KINDS, **_OTHER_KINDS}.items():
        if key in card and not isinstance(card[key], kind):
            raise PartError(
                f"{where}: '{key}' is a {type(card[key]).__name__}, expected a {kind.__name__}; write the part again"
            )
    for name, about in card["tensors"].items():
        if not isinstance(about, dict) or not {"shape", "dtype"} <= about.keys():
            raise PartError(
                f"{where}: the entry of tensor '{name}' lacks shape or dtype; write the part again"
            )
    return card


def file_of(folder: Path, name: str) -> Path | None:
    """Return a file of a part's folder, None where there is none.

    Raises:
        PartError: when it is a link to somewhere else.
    """
    file = folder / name
    if file.is_symlink() and file.resolve().parent != folder.resolve():
        raise PartError(
            f"{file} is a link out of its folder, to {file.resolve()}: copy the file itself there"
        )
    return file if file.is_file() else None


def fingerprint(card: Mapping[str, Any]) -> str:
    """Return the sha256 of a part's content: its class, arguments, assets and tensors, not where it came from."""
    content = {key: card[key] for key in _KINDS}
    return sha256(json.dumps(content, sort_keys=True).encode())


# ---- tensors


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name, tied ones once, where they are."""
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        identity = (
            tensor.data_ptr() or id(tensor),
            tensor.shape,
        )  # a sharded tensor has no address of its own
        if identity in seen:
            continue
        seen.add(identity)
        tensors[name] = tensor.detach()
    return tensors


def shape_and_dtype(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Return what a card says of tensors before they are hashed."""
    return {name: {"shape": list(tensor.shape), "dtype": _dtype(tensor)} for name, tensor in tensors.items()}


def check_tensors(card: Mapping[str, Any], tensors: Mapping[str, Tensor], path: str) -> None:
    """Compare weights with what their card says of them: names, shapes, dtypes, hashes; and that they are finite.

    Raises:
        PartError: names the first tensor that differs.
    """
    expected = card["tensors"]
    same_names(expected, tensors, f"the card of {path}", "the weights")
    for name, about in expected.items():
        tensor = tensors[name]
        if not isinstance(tensor, Tensor):
            raise PartError(
                f"{path}: '{name}' is a {type(tensor).__name__}, expected a tensor: take an earlier checkpoint"
            )
        if list(tensor.shape) != about["shape"] or _dtype(tensor) != about["dtype"]:
            raise PartError(
                f"{path}: tensor '{name}' is {_dtype(tensor)} {list(tensor.shape)}, "
                f"its card says {about['dtype']} {about['shape']}; {_remedy_of_shape(tensor)}"
            )
        if "sha256" in about and digest(tensor) != about["sha256"]:
            raise PartError(
                f"{path}: tensor '{name}' has another sha256 than its card says: "
                "the weights were changed or damaged; write the part again from its checkpoint"
            )
        check_finite(f"{path}: {name}", tensor, "take an earlier checkpoint")


def check_shapes(needed: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: str, who: str) -> None:
    """Compare weights with those of the module that they are meant for.

    Raises:
        PartError: names the tensors that differ.
    """
    same_names(needed, tensors, who, path)
    for name, tensor in needed.items():
        found = tensors[name]
        if tensor.shape != found.shape:
            reason = (
                "it is empty, as a shard that was never gathered is; write the part again from all of its shards"
                if tensor.numel() and not found.numel()
                else "the card's init_args are not those of the weights; write the part again"
            )
            raise PartError(
                f"{path}: tensor '{name}' is {list(found.shape)}, the class needs {list(tensor.shape)}; {reason}"
            )


def check_finite(name: str, tensor: Tensor, remedy: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        PartError: names the tensor.
    """
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise PartError(f"tensor '{name}' holds NaN or infinity: {remedy}")


def same_names(expected: Iterable[str], found: Iterable[str], who: str, where: str) -> None:
    """Refuse weights that are not named as their card or class names them.

    Raises:
        PartError: names what is missing and what is not known.
    """
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unexpected:
        lists = [
            f"{kind}: {_first(names)}"
            for kind, names in (("missing", missing), ("not known", unexpected))
            if names
        ]
        raise PartError(
            f"{where} and {who} name different tensors ({'; '.join(lists)}); they are not of one part: "
            "write it again from its checkpoint"
        )


def digest(tensor: Tensor) -> str:
    """Return the sha256 of a tensor's bytes."""
    # A copy also on a CPU: what numpy has seen the first FSDP cannot free, when it has put the tensor together.
    raw = tensor.detach().to("cpu", copy=True).contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(raw.data).hexdigest()


def sha256(data: bytes) -> str:
    """Return the sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _remedy_of_shape(tensor: Tensor) -> str:
    if not tensor.numel():
        return (
            "it is empty, as a shard that was never gathered is: write the part again from all of its shards"
        )
    return "the two files are not of one part: write it again from its checkpoint"


def _first(names: list[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def nearby(folder: Path) -> str:
    """Say which parts lie where one was looked for."""
    if not folder.parent.is_dir():
        return f"{folder.parent} does not exist either: run the stage that writes it first"
    there = sorted(p.name for p in folder.parent.iterdir() if (p / CARD).is_file())
    return (
        f"{folder.parent} holds the parts: {named(there, folder.name)}"
        if there
        else f"{folder.parent} holds no part"
    )


def named(names: Iterable[str], wanted: str) -> str:
    """Return names as a list, those most like the wanted one first."""
    near = difflib.get_close_matches(wanted, list(names), n=3)
    return ", ".join([*near, *(name for name in names if name not in near)])

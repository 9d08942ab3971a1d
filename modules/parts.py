"""Parts: trained modules as folders that can rebuild themselves, the contract between stages.

A part folder holds `card.yaml` (class path, init arguments, every tensor's name, shape, dtype and sha256),
`weights.safetensors`, and what else the module needs (a tokenizer). Nothing in it is ever executed: the card
may only name classes of this project, or of packages that the caller allows by name.
"""

import hashlib
import importlib
import json
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modules.origin import mark_loaded, weightless

CARD: Final = "card.yaml"
WEIGHTS: Final = "weights.safetensors"
VERSION: Final = 1
MAX_CARD_BYTES: Final = 64 << 20
_WITHIN: Final = "part"


class PartError(ValueError):
    """A part that is missing, damaged, or not what its card says."""


class Part(nn.Module, ABC):
    """A module that can be written to a folder and rebuilt from it alone.

    `init_args` returns the plain values that rebuild it with random weights; a value that starts with `./`
    is a file of the part's own folder, whose content `assets` returns, and `within(part)` is a part in this one.
    """

    @abstractmethod
    def init_args(self) -> dict[str, Any]:
        """Return constructor arguments as plain values (str, int, float, bool, list, dict)."""

    def assets(self) -> dict[str, str]:
        """Return the text files that the part needs beside its weights, by name."""
        return {}


def within(part: Part) -> dict[str, Any]:
    """Return the entry of `init_args` that stands for a part inside a part; its files are the outer part's `assets`."""
    return {_WITHIN: {"class_path": _class_path(part), "init_args": part.init_args()}}


# ---- writing


def describe(module: Part) -> dict[str, Any]:
    """Return a part's card: how to rebuild it, and the name, shape and dtype of each tensor."""
    return {
        "version": VERSION,
        "class_path": _class_path(module),
        "init_args": module.init_args(),
        "assets": {name: _sha256(text.encode()) for name, text in module.assets().items()},
        "tensors": {
            name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
            for name, tensor in _tensors(module).items()
        },
    }


def save(module: Part, folder: str | Path, **extra: Any) -> Path:
    """Write a part to `folder`, whole or not at all, and return the folder.

    Args:
        module: the part.
        folder: replaced when it exists.
        extra: more entries of the card as plain values, such as `parents` or `frozen`.

    Raises:
        PartError: when a tensor is not finite.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    tensors = _tensors(module)
    card = {**describe(module), **extra}
    for name, tensor in tensors.items():
        _check_finite(name, tensor, "the training diverged; hand over an earlier checkpoint")
        card["tensors"][name]["sha256"] = _digest(tensor)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        save_file(tensors, temporary / WEIGHTS)
        for name, text in module.assets().items():
            (temporary / name).write_text(text, encoding="utf-8")
        (temporary / CARD).write_text(
            yaml.safe_dump(card, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        for file in temporary.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


# ---- reading


def load(path: str, allow: list[str] | None = None) -> Part:
    """Rebuild the part in a folder, or the one that a Lightning checkpoint holds, and check every tensor.

    Args:
        path: a part folder, or `CHECKPOINT#part` such as `runs/align/checkpoints/last.ckpt#encoders.image`.
        allow: packages outside this project whose classes a card may name, such as `["my_lab.encoders"]`.

    Raises:
        PartError: names what was found, what was expected and what to do.
    """
    if "#" in path:
        checkpoint, part = path.rsplit("#", 1)
        card, tensors, assets = _read_checkpoint(Path(checkpoint), part)
    else:
        card, tensors, assets = _read_folder(Path(path))
    if weightless():
        module = _build(card, assets, path, allow or [])
    else:
        _check_tensors(card, tensors, path)
        module = _build(card, assets, path, allow or [])
        _fill(module, tensors, path)
    mark_loaded(module, path)
    return module


def untrained(path: str, allow: list[str] | None = None) -> Part:
    """Build the architecture of a part with fresh random weights: the baseline that shows what a stage was worth.

    Raises:
        PartError: as `load` does.
    """
    part = load(path, allow)
    card = {"class_path": _class_path(part), "init_args": part.init_args()}
    return _build(card, part.assets(), path, allow or [])


def load_all(
    folder: str | Path, groups: Iterable[str], allow: list[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Load the parts of a run that are named `<group>.<name>`, such as `encoders.image`, by group and name.

    Raises:
        PartError: when a group has no part in the folder, or a part is damaged.
    """
    folder = Path(folder)
    found: dict[str, dict[str, Any]] = {}
    for group in groups:
        paths = sorted(p for p in folder.glob(f"{group}.*") if p.is_dir())
        if not paths:
            raise PartError(
                f"{folder} holds no part '{group}.…': expected the parts/ folder of a finished run; "
                f"{_nearby(folder / group)}"
            )
        found[group] = {path.name.removeprefix(group + "."): load(str(path), allow) for path in paths}
    return found


def read_card(folder: str | Path) -> dict[str, Any]:
    """Read the card of a part folder without its weights.

    Raises:
        PartError: when there is none, or it is not a card.
    """
    folder = Path(folder)
    file = folder / CARD
    if not folder.is_dir():
        raise PartError(f"no part at {folder}: expected a folder with {CARD}; {_nearby(folder)}")
    if not file.is_file():
        raise PartError(f"{folder} is not a part: it has no {CARD}; {_nearby(folder)}")
    if file.stat().st_size > MAX_CARD_BYTES:
        raise PartError(f"{file} has {file.stat().st_size} bytes, more than {MAX_CARD_BYTES}: not a card")
    try:
        card = yaml.load(
            file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PartError(f"{file} is not readable as YAML ({error}); write the part again") from error
    return _checked_card(card, str(file))


def fingerprint(card: Mapping[str, Any]) -> str:
    """Return the sha256 of a part's content: its class, arguments, assets and tensors, not where it came from."""
    content = {key: card[key] for key in ("class_path", "init_args", "assets", "tensors")}
    return _sha256(json.dumps(content, sort_keys=True).encode())


def fingerprint_of(path: str, allow: list[str] | None = None) -> str:
    """Return the fingerprint of the part that `load` would load.

    Raises:
        PartError: as `load` does.
    """
    if "#" not in path:
        return fingerprint(read_card(path))
    module = load(path, allow)  # a checkpoint's cards hold no sha256: its weights change with every step
    card = describe(module)
    for name, tensor in _tensors(module).items():
        card["tensors"][name]["sha256"] = _digest(tensor)
    return fingerprint(card)


def _read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    card = read_card(folder)
    file = folder / WEIGHTS
    if not file.is_file():
        raise PartError(
            f"{folder} has no {WEIGHTS}: the part is incomplete; write it again from its checkpoint"
        )
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise PartError(f"{file} is damaged ({error}); write the part again from its checkpoint") from error
    assets = {}
    for name, sha256 in card["assets"].items():
        if Path(name).name != name or not (folder / name).is_file():
            raise PartError(f"{folder} lacks the file '{name}' that its card names")
        content = (folder / name).read_bytes()
        if _sha256(content) != sha256:
            raise PartError(
                f"{folder / name} is not the file that the card was written with: its sha256 differs"
            )
        assets[name] = content.decode("utf-8")
    return card, tensors, assets


def _read_checkpoint(file: Path, part: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    if not file.is_file():
        raise PartError(f"no checkpoint at {file}: expected a Lightning checkpoint file before '#{part}'")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds here; each means that the file cannot be trusted
        raise PartError(
            f"{file} is not a readable checkpoint of tensors and plain values ({error})"
        ) from error
    parts = checkpoint.get("parts") if isinstance(checkpoint, dict) else None
    if not parts:
        raise PartError(f"{file} holds no parts: it was not written by one of this project's stages")
    if part not in parts:
        raise PartError(f"{file} holds no part '{part}'; it holds: {', '.join(sorted(parts))}")
    entry = parts[part]
    card = _checked_card(entry["card"], f"{file}#{part}")
    state, prefix = checkpoint["state_dict"], entry["prefix"]
    tensors = {name: state[prefix + name] for name in card["tensors"] if prefix + name in state}
    return card, tensors, entry["assets"]


def _checked_card(card: Any, where: str) -> dict[str, Any]:
    if not isinstance(card, dict):
        raise PartError(f"{where} holds {type(card).__name__}, expected a mapping: not a card")
    missing = [key for key in ("version", "class_path", "init_args", "assets", "tensors") if key not in card]
    if missing:
        raise PartError(f"{where} lacks {', '.join(missing)}: not a whole card; write the part again")
    if card["version"] != VERSION:
        raise PartError(
            f"{where} is a card of version {card['version']}, this project reads version {VERSION}"
        )
    kinds = {"class_path": str, "init_args": dict, "assets": dict, "tensors": dict}
    for key, kind in kinds.items():
        if not isinstance(card[key], kind):
            raise PartError(f"{where}: '{key}' is a {type(card[key]).__name__}, expected a {kind.__name__}")
    return card


def _check_tensors(card: Mapping[str, Any], tensors: Mapping[str, Tensor], path: str) -> None:
    expected = card["tensors"]
    _same_names(expected, tensors, f"the card of {path}", "the weights")
    for name, about in expected.items():
        tensor = tensors[name]
        dtype = str(tensor.dtype).removeprefix("torch.")
        if list(tensor.shape) != about["shape"] or dtype != about["dtype"]:
            raise PartError(
                f"{path}: tensor '{name}' is {dtype} {list(tensor.shape)}, "
                f"its card says {about['dtype']} {about['shape']}; the two files are not of one part"
            )
        if "sha256" in about and _digest(tensor) != about["sha256"]:
            raise PartError(
                f"{path}: tensor '{name}' has another sha256 than its card says: "
                "the weights were changed or damaged; write the part again from its checkpoint"
            )
        _check_finite(f"{path}: {name}", tensor, "take an earlier checkpoint")


def _check_finite(name: str, tensor: Tensor, remedy: str) -> None:
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise PartError(f"tensor '{name}' holds NaN or infinity: {remedy}")


def _build(card: Mapping[str, Any], assets: Mapping[str, str], path: str, allow: Iterable[str]) -> Part:
    with tempfile.TemporaryDirectory(prefix="part-") as folder:
        for asset, text in assets.items():
            Path(folder, Path(asset).name).write_text(text, encoding="utf-8")
        return _construct(card, Path(folder), path, ("modules", *allow))


def _construct(card: Mapping[str, Any], folder: Path, path: str, allowed: tuple[str, ...]) -> Part:
    cls = _class_of(card["class_path"], path, allowed)
    try:
        return cls(**_resolve(dict(card["init_args"]), folder, path, allowed))
    except PartError:
        raise
    except (TypeError, ValueError, KeyError) as error:
        raise PartError(f"{path}: {card['class_path']} cannot be built from its card ({error})") from error


def _class_of(class_path: str, path: str, allowed: tuple[str, ...]) -> type[Part]:
    if not any(class_path.startswith(package + ".") for package in allowed):
        raise PartError(
            f"{path}: its card names the class '{class_path}', which is not of {' or '.join(allowed)}; "
            "if you trust it, list its package in `allow`"
        )
    module_name, _, name = class_path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise PartError(f"{path}: its class '{class_path}' cannot be imported ({error})") from error
    if not (isinstance(cls, type) and issubclass(cls, Part)):
        raise PartError(f"{path}: '{class_path}' is not a Part, so a card may not name it")
    return cls


def _resolve(value: Any, folder: Path, path: str, allowed: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_WITHIN} and isinstance(value[_WITHIN], dict):
            return _construct(value[_WITHIN], folder, path, allowed)
        return {key: _resolve(item, folder, path, allowed) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, folder, path, allowed) for item in value]
    if isinstance(value, str) and value.startswith("./"):
        return str(folder / Path(value).name)
    return value


def _class_path(module: Part) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _fill(module: Part, tensors: Mapping[str, Tensor], path: str) -> None:
    own = _tensors(module)
    _same_names(own, tensors, f"{type(module).__name__} as built from its card", path)
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise PartError(
                f"{path}: tensor '{name}' is {list(tensors[name].shape)}, the class needs {list(tensor.shape)}; "
                "the card's init_args are not those of the weights"
            )
    module.load_state_dict(
        dict(tensors), strict=False
    )  # tied weights are stored once; names were checked above


def _same_names(expected: Iterable[str], found: Iterable[str], who: str, where: str) -> None:
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unexpected:
        lists = [
            f"{kind}: {_first(names)}"
            for kind, names in (("missing", missing), ("not known", unexpected))
            if names
        ]
        raise PartError(
            f"{where} and {who} name different tensors ({'; '.join(lists)}); they are not of one part"
        )


def _first(names: list[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _nearby(folder: Path) -> str:
    if not folder.parent.is_dir():
        return f"{folder.parent} does not exist either: run the stage that writes it first"
    there = sorted(p.name for p in folder.parent.iterdir() if (p / CARD).is_file())
    return (
        f"{folder.parent} holds the parts: {', '.join(there)}" if there else f"{folder.parent} holds no part"
    )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name, tied ones once, contiguous on the CPU."""
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in module.state_dict().items():
        identity = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and identity in seen:
            continue
        seen.add(identity)
        tensors[name] = tensor.detach().cpu().contiguous()
    return tensors


def _digest(tensor: Tensor) -> str:
    raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(raw.data).hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

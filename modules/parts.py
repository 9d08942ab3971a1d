"""Parts: trained modules as folders that can rebuild themselves, the contract between stages.

A part folder holds `card.yaml` (class path, init arguments, every tensor's name, shape, dtype and sha256; see
modules/card.py), `weights.safetensors`, and what else the module needs (a tokenizer). Nothing in it is ever executed:
the card may only name classes of this project, or of packages that the caller allows by name.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from modules import stored_part
from modules.card import (
    CARD,
    VERSION,
    WEIGHTS,
    PartError,
    as_yaml,
    check_finite,
    digest,
    fingerprint,
    nearby,
    read_card,
    sha256,
    shape_and_dtype,
    tensors_of,
)
from modules.origin import mark_loaded
from modules.part import Part, class_path, within
from modules.part_building import build, fill
from modules.stored_part import StoredPart

__all__ = ["CARD", "WEIGHTS", "Part", "PartError", "fingerprint", "load", "read_card", "save", "within"]


# ---- writing


def describe(module: Part) -> dict[str, Any]:
    """Return a part's card: how to rebuild it, and the name, shape and dtype of each tensor.

    Raises:
        PartError: when an adapter is in a part of this part, which no card can say.
    """
    about = {"adapter": module.peft_adapter.card()} if module.peft_adapter else {}
    return {**_described(module, tensors_of(module)), **about}


def _described(module: Part, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    for name, inner in module.named_modules():
        if inner is not module and isinstance(inner, Part) and inner.peft_adapter:
            raise PartError(
                f"'{name}' in {type(module).__name__} has an adapter: put modules.adapters.adapt around the "
                f"{type(module).__name__} instead; its targets are found inside"
            )
    return {
        "version": VERSION,
        "class_path": class_path(module),
        "init_args": module.init_args(),
        "assets": {name: sha256(text.encode()) for name, text in module.assets().items()},
        "tensors": shape_and_dtype(tensors),
    }


def save(module: Part, folder: str | Path, **extra: Any) -> Path:
    """Write a part to `folder`, whole or not at all, and return the folder.

    Args:
        module: the part; one with an adapter is written as its adapter says, merged or not.
        folder: replaced when it exists.
        extra: more entries of the card as plain values, such as `trained`.

    Raises:
        PartError: when a tensor is not finite.
    """
    card, tensors = _sealed(module)
    return _write(Path(folder), {**card, **extra}, tensors, module.assets())


def save_all(modules: Mapping[str, Part], folder: str | Path, extra: Mapping[str, Mapping[str, Any]]) -> None:
    """Write what a stage hands over to `<folder>/<name>`; the card of each lists the others as its `siblings`.

    Args:
        modules: by name.
        folder: of all.
        extra: more entries of the cards, by name.

    Raises:
        PartError: as `save` does.
    """
    cards = {name: _sealed(module)[0] for name, module in modules.items()}
    marks = {name: fingerprint(card) for name, card in cards.items()}
    for name, module in modules.items():
        siblings = {other: mark for other, mark in marks.items() if other != name}
        card = {**cards[name], "siblings": siblings, **extra[name]}
        _write(Path(folder, name), card, _handed_over(module)[0], module.assets())


def _sealed(module: Part) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the card with the sha256 of every tensor, and the tensors."""
    tensors, about = _handed_over(module)
    card = {**_described(module, tensors), **about}
    if module.provenance:
        card.setdefault(
            "parent", {"path": module.provenance.path, "fingerprint": module.provenance.fingerprint}
        )
    for name, tensor in tensors.items():
        check_finite(name, tensor, "the training diverged; hand over an earlier checkpoint")
        card["tensors"][name]["sha256"] = digest(tensor)
    return card, tensors


def _handed_over(module: Part) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, about = (
        module.peft_adapter.hand_over(module) if module.peft_adapter else (tensors_of(module), {})
    )
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, about


def _write(
    folder: Path, card: Mapping[str, Any], tensors: dict[str, Tensor], assets: Mapping[str, str]
) -> Path:
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        save_file(tensors, temporary / WEIGHTS)
        for name, text in assets.items():
            (temporary / name).write_text(text, encoding="utf-8")
        (temporary / CARD).write_text(as_yaml(card), encoding="utf-8")
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

    A checkpoint of a run that trains an adapter gives the part with the adapter merged.

    Args:
        path: a part folder, or `CHECKPOINT#part` such as `runs/align/checkpoints/last.ckpt#encoders.image`.
        allow: packages outside this project whose classes a card may name, such as `["my_lab.encoders"]`.

    Raises:
        PartError: names what was found, what was expected and what to do.
    """
    stored = stored_part.read(path)
    adapter = stored.card.get("adapter", {})
    if adapter.get("state") == "training" and adapter.get("merge"):
        from modules import adapters

        return adapters.merge(path, allow=allow)
    if adapter.get("state") in ("training", "unmerged"):
        raise PartError(
            f"{path} is an adapter that is not merged into its base, expected whole weights: take it by "
            "{class_path: modules.adapters.merge, init_args: {path: "
            + path
            + "}}, write it merged (python -m stages.merge), or go on with its training by modules.adapters.load"
        )
    module = build(stored, allow)
    fill(module, stored.tensors, path)
    mark_loaded(module, path)
    return module


def untrained(path: str, allow: list[str] | None = None) -> Part:
    """Build the architecture of a part with fresh random weights: the baseline that shows what a stage was worth.

    Raises:
        PartError: as `load` does.
    """
    part = load(path, allow)
    stored = StoredPart(path, _described(part, {}), {}, part.assets())
    fresh = build(stored, allow)
    fresh.provenance = None
    return fresh


def load_all(
    folder: str | Path, groups: Iterable[str], allow: list[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Load the parts of a run that are named `<group>.<name>`, such as `encoders.image`, by group and name.

    Raises:
        PartError: when a group has no part in the folder, a part is damaged, or they are of different runs.
    """
    folder = Path(folder)
    found: dict[str, dict[str, Any]] = {}
    for group in groups:
        paths = sorted(p for p in folder.glob(f"{group}.*") if p.is_dir())
        if not paths:
            raise PartError(
                f"{folder} holds no part '{group}.…': expected the parts/ folder of a finished run; "
                f"{nearby(folder / group)}"
            )
        found[group] = {path.name.removeprefix(group + "."): load(str(path), allow) for path in paths}
    together = {f"{group}.{name}": part for group, of in found.items() for name, part in of.items()}
    check_siblings(together, together)
    return found


def check_siblings(modules: Mapping[str, Part], among: Mapping[str, Part]) -> None:
    """Refuse parts that say of another that they were handed over with a different one.

    Args:
        modules: what was trained with others, by the names under which a stage hands them over.
        among: those others, such as `encoders.image`.

    Raises:
        PartError: names the two.
    """
    for name, part in modules.items():
        for other, mark in (part.provenance.siblings if part.provenance else {}).items():
            provenance = among[other].provenance if other in among else None
            if (
                part.provenance
                and provenance
                and mark not in (provenance.fingerprint, provenance.merged_from)
            ):
                raise PartError(
                    f"{part.provenance.path} ('{name}') was handed over with another '{other}' ({mark[:12]}…) than "
                    f"{provenance.path} ({provenance.fingerprint[:12]}…): parts of two parents; take both from one run"
                )


def fingerprint_of(path: str, allow: list[str] | None = None) -> str:
    """Return the fingerprint of the part that `load` would load.

    Raises:
        PartError: as `load` does.
    """
    if "#" not in path:
        return fingerprint(read_card(path))
    provenance = load(path, allow).provenance
    assert provenance is not None
    return provenance.fingerprint

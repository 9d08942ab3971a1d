"""Parts: trained modules as folders that can rebuild themselves, the contract between stages.

A part folder holds `card.yaml` (class path, init arguments, every tensor's name, shape, dtype and sha256; see
modules/card.py), `weights.safetensors`, and what else the module needs (a tokenizer). Nothing in it is ever executed:
the card may only name classes of this project, or of packages that the caller allows by name.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from modules import stored_part
from modules.card import CARD, WEIGHTS, PartError, fingerprint, nearby, read_card
from modules.origin import mark_loaded
from modules.part import Part, within
from modules.part_building import build, fill
from modules.part_writing import describe, described, save, save_all
from modules.stored_part import StoredPart

__all__ = [
    "CARD",
    "WEIGHTS",
    "Part",
    "PartError",
    "describe",
    "fingerprint",
    "load",
    "read_card",
    "save",
    "save_all",
    "within",
]


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
    stored = StoredPart(path, described(part, {}), {}, part.assets())
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

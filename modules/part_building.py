"""Building: a stored part becomes a module again, by a class that its card may name, with every weight in place."""

import importlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from modules.card import PartError, check_shapes, digest, fingerprint, tensors_of
from modules.origin import weightless
from modules.part import WITHIN, Part, Provenance
from modules.stored_part import StoredPart


def build(stored: StoredPart, allow: list[str] | None = None) -> Part:
    """Build a stored part with random weights.

    Raises:
        PartError: when its card names a class that is not allowed, or one that its arguments do not fit.
    """
    with tempfile.TemporaryDirectory(prefix="part-") as folder:
        for asset, text in stored.assets.items():
            Path(folder, Path(asset).name).write_text(text, encoding="utf-8")
        module = _construct(stored.card, Path(folder), stored.path, ("modules", *(allow or [])))
    module.provenance = provenance_of(stored)
    return module


def provenance_of(stored: StoredPart) -> Provenance:
    """Return where a stored part is from; the cards of checkpoints have no sha256, so that it is made here."""
    entries = {name: dict(about) for name, about in stored.card["tensors"].items()}
    if not weightless():
        for name, about in entries.items():
            about["sha256"] = about.get("sha256") or digest(stored.tensors[name])
    mark = fingerprint({**stored.card, "tensors": entries})
    return Provenance(stored.path, mark, stored.card.get("siblings", {}), stored.card.get("merged_from"))


def fill(module: Part, tensors: Mapping[str, Tensor], path: str) -> None:
    """Put weights into a module, all of them.

    Raises:
        PartError: when names or shapes differ.
    """
    if weightless():
        return
    own = tensors_of(module)
    check_shapes(own, tensors, path, f"{type(module).__name__} as built from its card")
    module.load_state_dict(
        dict(tensors), strict=False
    )  # tied weights are stored once; names were checked above


def _construct(card: Mapping[str, Any], folder: Path, path: str, allowed: tuple[str, ...]) -> Part:
    if not isinstance(card.get("class_path"), str) or not isinstance(card.get("init_args"), dict):
        raise PartError(
            f"{path}: a part within it lacks its class_path or its init_args; write the part again"
        )
    cls = _class_of(card["class_path"], path, allowed)
    _check_alone(cls, card["init_args"], path)
    try:
        return cls(**_resolve(dict(card["init_args"]), folder, path, allowed))
    except PartError:
        raise
    except Exception as error:  # whatever a class makes of the arguments of a stranger
        raise PartError(
            f"{path}: {card['class_path']} cannot be built from its card ({error}); write the part again"
        ) from error


def _check_alone(cls: type[Part], arguments: Mapping[str, Any], path: str) -> None:
    """Refuse a card that would fetch a model or read another part: a part rebuilds itself from its folder alone."""
    from modules.encoders.encoder import Encoder

    if arguments.get("name_or_path") and arguments.get("pretrained", True):
        raise PartError(
            f"{path}: its card fetches the model '{arguments['name_or_path']}', expected a config: a part rebuilds "
            "itself from its folder alone; write the part again"
        )
    if issubclass(cls, Encoder) and cls.handed_over is not Encoder.handed_over:
        raise PartError(f"{path}: a {cls.__name__} stands in for another part: name that one instead")


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
        raise PartError(
            f"{path}: its class '{class_path}' cannot be imported ({error}); "
            "it was renamed or moved since: check out the revision that wrote the part, or mend the card"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Part)):
        raise PartError(f"{path}: '{class_path}' is not a Part, so a card may not name it")
    return cls


def _resolve(value: Any, folder: Path, path: str, allowed: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        if set(value) == {WITHIN} and isinstance(value[WITHIN], dict):
            return _construct(value[WITHIN], folder, path, allowed)
        return {key: _resolve(item, folder, path, allowed) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, folder, path, allowed) for item in value]
    if isinstance(value, str) and value.startswith("./"):
        return str(folder / Path(value).name)
    return value

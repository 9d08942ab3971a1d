"""Writing parts: whole tensors from however many ranks, their card, and the folder that holds both."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from modules.card import (
    CARD,
    VERSION,
    WEIGHTS,
    PartError,
    as_yaml,
    check_finite,
    digest,
    fingerprint,
    sha256,
    shape_and_dtype,
    tensors_of,
)
from modules.collectives import all_ranks
from modules.part import Part, class_path


def describe(module: Part) -> dict[str, Any]:
    """Return a part's card: how to rebuild it, and the name, shape and dtype of each tensor.

    Raises:
        PartError: when an adapter is in a part of this part, which no card can say.
    """
    about = {"adapter": module.peft_adapter.card()} if module.peft_adapter else {}
    return {**described(module, tensors_of(module)), **about}


def described(module: Part, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return a part's card for these tensors.

    Raises:
        PartError: as `describe` does.
    """
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

    Where there are several ranks, all of them call it, and the first one writes.

    Args:
        module: the part; one with an adapter is written as its adapter says, merged or not.
        folder: replaced when it exists.
        extra: more entries of the card as plain values, such as `trained`.

    Raises:
        PartError: when a tensor is not finite.
    """
    folder = Path(folder)
    with _drafts(folder.parent, {folder.name: module}) as drafts:
        for draft in drafts:
            draft.finish({**draft.card, **extra})
    return folder


def save_all(modules: Mapping[str, Part], folder: str | Path, extra: Mapping[str, Mapping[str, Any]]) -> None:
    """Write what a stage hands over to `<folder>/<name>`; the card of each lists the others as its `siblings`.

    Where there are several ranks, all of them call it, and the first one writes. It holds one part at a time as a
    whole, the others none.

    Args:
        modules: by name.
        folder: of all.
        extra: more entries of the cards, by name.

    Raises:
        PartError: as `save` does.
    """
    with _drafts(Path(folder), modules) as drafts:
        marks = {draft.folder.name: fingerprint(draft.card) for draft in drafts}
        for draft in drafts:
            name = draft.folder.name
            siblings = {other: mark for other, mark in marks.items() if other != name}
            draft.finish({**draft.card, "siblings": siblings, **extra[name]})


@dataclass(frozen=True)
class _Draft:
    """A part whose weights lie beside its folder already; its card, which may name other parts, is not written yet."""

    folder: Path
    temporary: Path
    card: dict[str, Any]

    def finish(self, card: Mapping[str, Any]) -> None:
        (self.temporary / CARD).write_text(as_yaml(card), encoding="utf-8")
        for file in self.temporary.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        self.temporary.chmod(0o755)
        if self.folder.exists():
            shutil.rmtree(self.folder)
        os.replace(self.temporary, self.folder)


@contextmanager
def _drafts(parent: Path, modules: Mapping[str, Part]) -> Iterator[list[_Draft]]:
    """Write the weights of parts one after the other; none but the first rank has drafts to finish."""
    from safetensors.torch import save_file

    drafts: list[_Draft] = []
    try:
        for name, module in modules.items():
            handed_over = _handed_over(module)
            if handed_over is None:
                continue
            parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=parent))
            drafts.append(_Draft(parent / name, temporary, _sealed(module, *handed_over)))
            save_file(handed_over[0], temporary / WEIGHTS)
            for asset, text in module.assets().items():
                (temporary / asset).write_text(text, encoding="utf-8")
        yield drafts
    finally:
        for draft in drafts:
            shutil.rmtree(draft.temporary, ignore_errors=True)


def _sealed(module: Part, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card with the sha256 of every tensor."""
    card = {**described(module, tensors), **about}
    if module.provenance:
        card.setdefault(
            "parent", {"path": module.provenance.path, "fingerprint": module.provenance.fingerprint}
        )
    for name, tensor in tensors.items():
        check_finite(name, tensor, "the training diverged; hand over an earlier checkpoint")
        card["tensors"][name]["sha256"] = digest(tensor)
    return card


def _handed_over(module: Part) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return whole tensors on the CPU and what the card says of an adapter; None but on the first rank."""
    from modules.parallel import is_flat, mesh_of, whole  # costs most of a second

    is_first, own = all_ranks()[0] == 0, tensors_of(module)
    if any(tensor.is_meta for tensor in own.values()):  # of layers that a pipeline has on other ranks
        own = {name: tensor for name, tensor in module.state_dict().items() if name in own}
    is_spread = is_flat(module) or any(mesh_of(tensor) is not None for tensor in own.values())
    tensors = {}
    for name, tensor in own.items():
        together = whole(tensor)  # which all ranks make, one tensor at a time
        if is_first:
            tensors[name] = together.cpu().contiguous()
    if not is_first:
        return None
    if module.peft_adapter is None:
        return tensors, {}
    adapted = module.peft_adapter.rebuild(module, tensors) if is_spread else module
    tensors, about = module.peft_adapter.hand_over(adapted)
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, about

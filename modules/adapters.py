"""Adapters: few new weights inside a part (LoRA and its kin, by peft) that train while all others stay as they are."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from modules import part_building, parts, stored_part
from modules.adapter_config import peft_config
from modules.card import PartError, check_shapes, digest, tensors_of
from modules.encoders.encoder import Encoder
from modules.origin import mark_loaded, weightless
from modules.part import Part, Provenance, class_path
from modules.stored_part import StoredPart


@dataclass(frozen=True)
class Adapter:
    """What was put into a part.

    Args:
        config: of peft, as it was given.
        merge: whether the next stage gets plain weights.
        base: where the part is from.
        before: sha256 of the part's tensors as they were, where the adapter is handed over alone.
    """

    config: Mapping[str, Any]
    merge: bool
    base: Provenance | None
    before: Mapping[str, str] = field(default_factory=dict)

    def card(self) -> dict[str, Any]:
        return self._about("training") | {"merge": self.merge}

    def hand_over(self, part: Part) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the plain class's tensors, merged, or the adapter's and what else training has changed."""
        if self.merge:
            return merged_tensors(part), {"adapter": self._about("merged")}
        layers = _layers(part)
        changed = {}
        for name, tensor in tensors_of(part).items():
            plain = _plain_name(name, layers)
            if plain is None or digest(tensor) != self.before[plain]:
                changed[name] = tensor
        return changed, {"adapter": self._about("unmerged")}

    def rebuild(self, part: Part, tensors: Mapping[str, Tensor]) -> Part:
        """Return a part that is spread over ranks as one process has it, with weights put together from them."""
        card = parts.describe(part) | {"tensors": {}}
        stored = StoredPart("the part of all ranks", card, {}, part.assets())
        again = part_building.build(stored, _packages(part))
        _insert(again, self.config)
        check_shapes(tensors_of(again), tensors, stored.path, f"{class_path(part)} with its adapter")
        again.load_state_dict(dict(tensors), strict=False)  # tied weights are there once
        return again

    def _about(self, state: str) -> dict[str, Any]:
        base = {"path": self.base.path, "fingerprint": self.base.fingerprint} if self.base else None
        return {"state": state, "config": dict(self.config), "base": base}


# ---- what a config names


def adapt(part: Part, config: dict[str, Any], merge: bool = True) -> Part:
    """Put an adapter into a part and freeze the rest of it; `lr_factors` of the stage may free more by name.

    Args:
        part: any encoder or language model; it is changed in place.
        config: of peft: `peft_type`, such as LORA, `target_modules`, by name, by pattern or `all-linear`, and what
            else the method takes, such as `r`, `lora_alpha`, `use_dora`.
        merge: hand over plain weights; else the adapter alone, with the fingerprint of the part it belongs to.

    Raises:
        ValueError: when peft is not installed or has no such method or setting, or a target matches nothing or cannot
            be changed.
        PartError: when the part has an adapter already, or is to be the base of an un-merged one and lies nowhere.
    """
    _check_installed()
    _check_part(part, merge)
    is_alone = not merge and not weightless()
    before = {name: digest(tensor) for name, tensor in tensors_of(part).items()} if is_alone else {}
    _insert(part, config)
    _mark(part, None)  # the adapter's weights are new, whatever the part's are
    part.peft_adapter = Adapter(dict(config), merge, part.provenance, before)
    return part


def load(path: str, base: str | None = None, allow: list[str] | None = None) -> Part:
    """Load a part with its adapter as it is, so that its training goes on.

    Args:
        path: a part that was handed over un-merged, or `CHECKPOINT#part` of a run that trains an adapter.
        base: the part that it was trained on, where that has moved since.
        allow: as for `modules.parts.load`.

    Raises:
        PartError: when there is no such adapter, or the base is another.
    """
    stored = stored_part.read(path)
    about = stored.card.get("adapter")
    if not about or about.get("state") not in ("unmerged", "training"):
        raise PartError(
            f"{path} holds whole weights and no adapter beside them: take it by modules.parts.load"
        )
    _check_about(about, path)
    if about.get("merge"):
        part = part_building.build(stored, allow)
        part.provenance = Provenance(**about["base"]) if about["base"] else None
    else:
        part = _base_of(path, about["base"], base, stored.card["class_path"], allow)
    try:
        adapt(part, about["config"], merge=bool(about.get("merge")))
    except ValueError as error:
        raise PartError(f"{path}: the adapter of its card cannot be built ({error})") from error
    if not weightless():
        _fill(part, stored, is_whole=about["state"] == "training")
    mark_loaded(part, path)
    _mark(part, path)
    part.provenance = part_building.provenance_of(stored)
    return part


def merge(path: str, base: str | None = None, allow: list[str] | None = None) -> Part:
    """Load a part that was handed over un-merged as a plain one, with the adapter merged into the weights.

    Args:
        path: as for `load`.
        base: as for `load`.
        allow: as for `modules.parts.load`.

    Raises:
        PartError: as `load` does.
    """
    part = merged(load(path, base, allow))
    mark_loaded(part, path)
    return part


def _fill(part: Part, stored: StoredPart, *, is_whole: bool) -> None:
    needed, layers = tensors_of(part), _layers(part)
    if not is_whole:  # what it does not hold is the base's
        needed = {n: t for n, t in needed.items() if n in stored.tensors or _plain_name(n, layers) is None}
    check_shapes(needed, stored.tensors, stored.path, f"{type(part).__name__} with the adapter of its card")
    part.load_state_dict(stored.tensors, strict=False)


def _mark(part: Part, source: str | None) -> None:
    """Note where the adapter's own weights are from."""
    for layer in _layers(part).values():
        for name, child in layer.named_children():
            if name != "base_layer":
                mark_loaded(child, source)


# ---- merging


def merged(part: Part) -> Part:
    """Return the plain part that a part with an adapter amounts to; the given one is left as it is."""
    tensors = merged_tensors(part)
    card = parts.describe(part) | {"tensors": {}}
    plain = part_building.build(StoredPart("the merged part", card, {}, part.assets()), _packages(part))
    part_building.fill(plain, tensors, "the merged part")
    plain.provenance = part.provenance
    return plain


def merged_tensors(part: Part) -> dict[str, Tensor]:
    """Return the weights of the plain class; a copy of one layer at a time is merged, the part is left as it is."""
    layers = _layers(part)
    tensors = {}
    for name, tensor in tensors_of(part).items():
        plain = _plain_name(name, layers)
        if plain is not None:
            tensors[plain] = tensor
    for name, layer in _outermost(part):
        for key, tensor in _merged_layer(layer).state_dict().items():
            tensors[f"{name}.{key}"] = tensor.detach()
    return tensors


def _merged_layer(layer: Any) -> nn.Module:
    from peft.tuners.lora.layer import MultiheadAttention

    layer = copy.deepcopy(layer)
    if isinstance(layer, MultiheadAttention):  # its projections are wrapped one by one
        return layer.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
    layer.merge(safe_merge=False)
    return layer.get_base_layer()


def _outermost(part: nn.Module) -> Iterator[tuple[str, Any]]:
    inside: tuple[str, ...] = ()
    for name, layer in _layers(part).items():
        if not name.startswith(inside):
            inside = (*inside, name + ".")
            yield name, layer


def _layers(part: nn.Module) -> dict[str, Any]:
    """Return the layers that an adapter has changed, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in part.named_modules() if isinstance(module, BaseTunerLayer)}


def _plain_name(name: str, layers: Mapping[str, Any]) -> str | None:
    """Return the name of a tensor before the adapter came, None of the adapter's own."""
    path: list[str] = []
    plain: list[str] = []
    for word in name.split("."):
        is_layer = ".".join(path) in layers
        path.append(word)
        if is_layer and word != "base_layer":
            return None
        if not is_layer:
            plain.append(word)
    return ".".join(plain)


# ---- putting one in


def _insert(part: Part, config: Mapping[str, Any]) -> None:
    from peft import inject_adapter_in_model

    settings, training = peft_config(config, part), part.training
    try:
        inject_adapter_in_model(settings, part)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"peft cannot put {config['peft_type']} on {config.get('target_modules')} of {type(part).__name__} "
            f"({error}): choose other target_modules"
        ) from error
    _check_tied(part)
    part.train(training)


def _check_installed() -> None:
    if find_spec("peft") is None:
        raise ValueError("peft is not installed; run: pip install 'trivium[adapters]'")


def _check_part(part: Part, merge: bool) -> None:
    kinds = [type(layer).__name__ for layer in _layers(part).values()]
    if part.peft_adapter or kinds:
        raise PartError(
            f"this {type(part).__name__} has an adapter already ({len(kinds)} layers of peft): an adapter over an "
            "adapter is not supported; merge the first one (modules.adapters.merge), or go on with its training "
            "(modules.adapters.load) without modules.adapters.adapt around it"
        )
    if isinstance(part, Encoder) and part.handed_over() is not part:
        raise PartError(
            f"a {type(part).__name__} only stands in for an encoder that does not run: put the adapter on that encoder"
        )
    if not merge and part.provenance is None:
        raise PartError(
            f"merge is false, but this {type(part).__name__} was not loaded from a part that the adapter could refer "
            "to: take it by modules.parts.load, or hand over merged weights (merge: true)"
        )


def _check_tied(part: Part) -> None:
    """Refuse to change a weight that two layers share: merged into one, it would change the other.

    Raises:
        ValueError: names both.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in part.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    layers = _layers(part)
    for shared in names.values():
        if len(shared) > 1 and any(
            name.startswith(tuple(f"{layer}." for layer in layers)) for name in shared
        ):
            plain = [_plain_name(name, layers) or name for name in shared]
            raise ValueError(
                f"adapter config: a target names a weight that is shared ({' = '.join(plain)}): an adapter on one "
                "cannot be merged without changing the other; leave it out of target_modules"
            )


def _check_about(about: Mapping[str, Any], path: str) -> None:
    """Refuse what a card says of its adapter when that is too little to build it.

    Raises:
        PartError: names the entry.
    """
    if not isinstance(about.get("config"), dict):
        raise PartError(f"{path}: its card says no config of the adapter; write the part again")
    base = about.get("base")
    is_known = (
        isinstance(base, dict)
        and base.keys() == {"path", "fingerprint"}
        and all(isinstance(value, str) for value in base.values())
    )
    if not is_known and (base is not None or not about.get("merge")):
        raise PartError(
            f"{path}: its card says no path and fingerprint of the adapter's base; write the part again"
        )


def _base_of(
    path: str, about: Mapping[str, Any], base: str | None, kind: str, allow: list[str] | None
) -> Part:
    where = base or about["path"]
    try:
        part = parts.load(where, allow)
    except PartError as error:
        raise PartError(
            f"{path} is an adapter on {about['path']}, which cannot be loaded ({error}); "
            "where it has moved, say `base`"
        ) from error
    found = part.provenance.fingerprint if part.provenance else ""
    if found != about["fingerprint"] or class_path(part) != kind:
        raise PartError(
            f"{path} was trained on {about['path']} ({kind}, {about['fingerprint'][:12]}…), and {where} is "
            f"another part ({class_path(part)}, {found[:12]}…): name the very base it was trained on as `base`"
        )
    return part


def _packages(part: Part) -> list[str]:
    """Return the packages of the classes of a part that is built already, so that it may be built again."""
    found = {class_path(module).partition(".")[0] for module in part.modules() if isinstance(module, Part)}
    return sorted(found)

"""An adapter's config: the methods of peft that are taken, their settings, and the modules that they are put on."""

import difflib
import re
from collections.abc import Mapping
from typing import Any, Final

from torch import nn

METHODS: Final = (
    "LORA",
    "IA3",
    "LN_TUNING",
    "LOHA",
    "LOKR",
    "OFT",
    "HRA",
    "FOURIERFT",
    "C3A",
    "MISS",
    "DELORA",
)
"""Methods of peft that live inside the layers they change, need nothing of the training loop and can be merged."""
ELSEWHERE: Final = {
    "modules_to_save": "free them by name with lr_factors",
    "trainable_token_indices": "free the embedding by name with lr_factors",
    "target_parameters": "name the modules in target_modules",
    "layer_replication": "build the deeper model first",
}
"""Settings of peft that would change what the part is, or that this project has another place for."""
_READS_WEIGHTS: Final = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules that take the weights of their layers and never call them: an adapter there would do nothing."""


def peft_config(config: Mapping[str, Any], part: nn.Module) -> Any:
    """Return peft's own config.

    Args:
        config: as written by the user: `peft_type`, `target_modules` and what else the method takes.
        part: that it is for.

    Raises:
        ValueError: when peft has no such method or setting, or a target matches nothing or cannot be changed.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kinds = {str(method.value): kind for method, kind in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    settings = dict(config)
    method = str(settings.pop("peft_type", None)).upper()
    there = [name for name in METHODS if name in kinds]
    if method not in there:
        raise ValueError(
            f"adapter config: peft_type is {config.get('peft_type')!r}, expected one of {', '.join(there)}"
        )
    if elsewhere := set(settings) & set(ELSEWHERE):
        name = min(elsewhere)
        raise ValueError(f"adapter config: {name} has no effect here; {ELSEWHERE[name]}")
    kind = kinds[method]
    known = sorted(kind.__dataclass_fields__)
    if unknown := sorted(set(settings) - set(known)):
        near = difflib.get_close_matches(unknown[0], known, n=3) or known
        raise ValueError(
            f"adapter config: {method} of peft knows no {', '.join(unknown)}; did you mean {', '.join(near)}?"
        )
    settings["target_modules"] = _targets(settings.get("target_modules"), part)
    if method == "IA3":
        settings.setdefault("feedforward_modules", [])
    try:
        return kind(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"adapter config: {method} of peft takes no {settings}: {error}") from error


def _targets(wanted: str | list[str] | None, part: nn.Module) -> list[str] | str:
    """Return the names of the modules that are meant, or peft's pattern of them.

    Raises:
        ValueError: when one matches nothing, or a module that nothing calls.
    """
    modules = [name for name, _ in part.named_modules() if name]
    if not wanted:
        raise ValueError(
            f"adapter config: target_modules is missing: name modules of {type(part).__name__}, such as "
            f"{', '.join(_with_weights(part)[:8])}, or all-linear"
        )
    if wanted == "all-linear":
        wanted = sorted(_linear(part))
    if isinstance(wanted, str):
        found = {wanted: [name for name in modules if re.fullmatch(wanted, name)]}
    else:
        found = {target: [n for n in modules if n == target or n.endswith("." + target)] for target in wanted}
    for target, names in found.items():
        if not names:
            ends = {".".join(name.split(".")[-count:]) for name in modules for count in range(1, 9)}
            near = difflib.get_close_matches(target, sorted(ends), n=3) or _with_weights(part)[:8]
            raise ValueError(
                f"adapter config: the target '{target}' matches no module of {type(part).__name__}; "
                f"did you mean {', '.join(near)}?"
            )
        for name in names:
            _check_called(target, name, part)
    return wanted


def _check_called(target: str, name: str, part: nn.Module) -> None:
    above = name.rpartition(".")[0]
    parent = part.get_submodule(above)
    if isinstance(parent, _READS_WEIGHTS):
        raise ValueError(
            f"adapter config: the target '{target}' names {name} in a {type(parent).__name__}, which reads its "
            f"layers' weights and never calls them: an adapter there would do nothing; leave it out"
            f"{f', or target {above} itself' if isinstance(parent, nn.MultiheadAttention) else ''}"
        )


def _with_weights(part: nn.Module) -> list[str]:
    """Return the last words of the names of modules that hold a matrix themselves."""
    owners = {name.rpartition(".")[0] for name, value in part.named_parameters() if value.ndim > 1}
    return sorted({owner.rpartition(".")[2] for owner in owners if owner})


def _linear(part: nn.Module) -> list[str]:
    """Return the names of all linear layers but those of a language model's output."""
    from transformers import PreTrainedModel
    from transformers.pytorch_utils import Conv1D

    heads = [
        module.get_output_embeddings() for module in part.modules() if isinstance(module, PreTrainedModel)
    ]
    unfit = {id(head) for head in heads}
    for module in part.modules():
        if isinstance(module, _READS_WEIGHTS):
            unfit |= {id(child) for child in module.children()}
    return [
        name
        for name, module in part.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and id(module) not in unfit
    ]

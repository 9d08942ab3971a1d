"""Where weights came from: what is not known to have been loaded starts at random, and is listed."""

from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import nn

_LOADED: "WeakKeyDictionary[nn.Module, str | None]" = WeakKeyDictionary()


def mark_loaded(module: nn.Module, source: str | None) -> None:
    """Note that every weight of a module was read from `source`, such as a part folder or a model's name.

    None says that the module is new inside one that was read, as an adapter's weights are.
    """
    _LOADED[module] = source


def origins(module: nn.Module) -> dict[str, str | None]:
    """Return, for each parameter by name, where it was loaded from; None where it starts at random."""
    sources = {name: _LOADED[child] for name, child in module.named_modules() if child in _LOADED}
    return {name: _nearest(name, sources) for name, _ in module.named_parameters()}


def random_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that start at random, by name."""
    sources = origins(module)
    return {name: parameter for name, parameter in module.named_parameters() if sources[name] is None}


def listed(parameters: Mapping[str, nn.Parameter]) -> str:
    """Name parameters by the first two words of their names, such as `encoders.image`, with how many they are."""
    sizes: dict[str, int] = {}
    for name, parameter in parameters.items():
        part = ".".join(name.split(".")[:-1][:2]) or name
        sizes[part] = sizes.get(part, 0) + parameter.numel()
    return ", ".join(f"{part} ({size:,} parameters)" for part, size in sizes.items())


def weightless() -> bool:
    """Say whether modules are being built for their shapes alone, on the meta device: no weight need be read."""
    return torch.get_default_device().type == "meta"


def _nearest(name: str, sources: dict[str, str | None]) -> str | None:
    inside = [prefix for prefix in sources if not prefix or name.startswith(prefix + ".")]
    return sources[max(inside, key=len)] if inside else None

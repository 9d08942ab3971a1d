"""Optimiser states by the names of parameters: a run goes on however its parameters are grouped on another machine.

torch numbers parameters in the order of an optimiser's groups, and groups differ with how parameters are spread over
ranks. In a saved state by name, `params` of each group are names, and so are the keys of `state`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from modules.parallel import plain_name

SETTINGS = ("lr", "initial_lr", "weight_decay", "betas", "eps")
"""What must be alike in groups that become one."""


class StateError(ValueError):
    """A saved optimiser state that does not belong to the parameters at hand."""


def names_of(module: nn.Module, optimizer: Optimizer) -> list[list[str]]:
    """Return the names of the parameters in each of an optimiser's groups."""
    names = {id(parameter): plain_name(name) for name, parameter in module.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]


def by_name(state: Mapping[str, Any], names: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return a saved state with names for numbers.

    Args:
        state: as `Optimizer.state_dict` returned it.
        names: of the parameters in each of its groups.

    Raises:
        StateError: when the groups have not as many parameters.
    """
    groups = state["param_groups"]
    if [len(group["params"]) for group in groups] != [len(group) for group in names]:
        raise StateError(
            "the checkpoint's optimiser state has not as many parameters as their names: it is damaged"
        )
    name = {
        number: each
        for group, own in zip(groups, names, strict=True)
        for number, each in zip(group["params"], own, strict=True)
    }
    return {
        "state": {name[number]: value for number, value in state["state"].items()},
        "param_groups": [{**group, "params": list(own)} for group, own in zip(groups, names, strict=True)],
    }


def regrouped(state: Mapping[str, Any], names: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return a saved state by name for other groups of the same parameters, each with the settings it had.

    Raises:
        StateError: names a parameter that is missing, or two of one group that had other settings.
    """
    origin = _origins([group["params"] for group in state["param_groups"]], names)
    groups = []
    for own, whence in zip(names, origin, strict=True):
        settings = [state["param_groups"][number] for number in whence]
        for other in settings[1:]:
            if unlike := [key for key in SETTINGS if settings[0].get(key) != other.get(key)]:
                raise StateError(
                    f"{own[0]} and others of its group had another {unlike[0]} each ({settings[0].get(unlike[0])}, "
                    f"{other.get(unlike[0])}) in the checkpoint: go on with the strategy that wrote it"
                )
        groups.append({**settings[0], "params": list(own)})
    return {"state": dict(state["state"]), "param_groups": groups}


def numbered(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved state by name as `Optimizer.load_state_dict` takes it, with numbers for names."""
    number = {
        name: index
        for index, name in enumerate(name for group in state["param_groups"] for name in group["params"])
    }
    return {
        "state": {number[name]: value for name, value in state["state"].items()},
        "param_groups": [
            {**group, "params": [number[name] for name in group["params"]]} for group in state["param_groups"]
        ],
    }


def regrouped_schedule(
    state: Mapping[str, Any], saved: Sequence[Sequence[str]], names: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Return the saved state of a learning-rate schedule for other groups: its lists have one entry for each.

    Raises:
        StateError: as `regrouped` does.
    """
    first = [whence[0] for whence in _origins(saved, names)]
    lists = {
        key: value for key, value in state.items() if isinstance(value, list) and len(value) == len(saved)
    }
    return {**state, **{key: [value[number] for number in first] for key, value in lists.items()}}


def _origins(saved: Sequence[Sequence[str]], names: Sequence[Sequence[str]]) -> list[list[int]]:
    """Return for each group the numbers of those in which its parameters were saved."""
    group_of = {name: number for number, group in enumerate(saved) for name in group}
    if missing := sorted({name for group in names for name in group} ^ group_of.keys()):
        raise StateError(
            f"the checkpoint's optimiser and this one differ in {len(missing)} parameters ({', '.join(missing[:3])}): "
            "the checkpoint is of another model, or other parameters were frozen"
        )
    return [sorted({group_of[name] for name in group}) for group in names]

"""Part: the interface of trained modules that can be written to a folder and rebuilt from it alone."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from torch import Tensor, nn

WITHIN: Final = "part"


@dataclass(frozen=True)
class Provenance:
    """Where a part was loaded from."""

    path: str
    fingerprint: str
    siblings: Mapping[str, str] = field(default_factory=dict)
    """Fingerprints of the parts that it was handed over with, by name."""
    merged_from: str | None = None
    """Fingerprint of the un-merged adapter that this part was, before it was merged into its base."""


class Adapter(Protocol):
    """What modules/adapters.py puts into a part."""

    def hand_over(self, part: "Part") -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors that the next stage gets, and what the card says of the adapter."""

    def rebuild(self, part: "Part", tensors: Mapping[str, Tensor]) -> "Part":
        """Return a part that is spread over ranks as one process has it, with weights put together from them."""

    def card(self) -> dict[str, Any]:
        """Return what the card of a checkpoint, which holds base and adapter side by side, says of the adapter."""


class Part(nn.Module, ABC):
    """A module that can be written to a folder and rebuilt from it alone.

    `init_args` returns the plain values that rebuild it with random weights; a value that starts with `./`
    is a file of the part's own folder, whose content `assets` returns, and `within(part)` is a part in this one.
    """

    provenance: Provenance | None = None
    peft_adapter: Adapter | None = None

    @abstractmethod
    def init_args(self) -> dict[str, Any]:
        """Return constructor arguments as plain values (str, int, float, bool, list, dict)."""

    def assets(self) -> dict[str, str]:
        """Return the text files that the part needs beside its weights, by name."""
        return {}


def within(part: Part) -> dict[str, Any]:
    """Return the entry of `init_args` that stands for a part inside a part; its files are the outer part's `assets`."""
    return {WITHIN: {"class_path": class_path(part), "init_args": part.init_args()}}


def class_path(module: Part) -> str:
    """Return the import path of a part's class."""
    own = class_of(module)
    return f"{own.__module__}.{own.__qualname__}"


def class_of(module: nn.Module) -> type:
    """Return the class that a module was built from; FSDP2 puts one of its own before it."""
    from torch.distributed.fsdp import FSDPModule

    return next(kind for kind in type(module).__mro__ if not issubclass(kind, FSDPModule))

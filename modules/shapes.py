"""Shapes: a model's step run on shapes alone, to know what it computes and keeps before it is paid for."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_INDEXING = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
)
_CONSTANTS = (
    torch.ops.aten.zeros_like.default,
    torch.ops.aten.ones_like.default,
    torch.ops.aten.full_like.default,
    torch.ops.aten.new_zeros.default,
    torch.ops.aten.new_ones.default,
    torch.ops.aten.new_full.default,
)


class ShapesError(ValueError):
    """A step that cannot be run on shapes alone, since what it computes decides what it does next."""


class Shapes(TorchDispatchMode):
    """Within it, whatever meets a tensor of `on_shapes` is computed in shape only, and its bytes are counted.

    Tensors that never meet one stay real: token ids, masks and the rows of samples, on which shapes depend (how many
    tokens are real, who has a picture). So a step that looks at its masks runs as it would, at no cost in memory.

    What is true of a shape is taken to be true: a mask that the step computes keeps all, which is the most that it can
    take, and a check that a number is finite, or there, is passed.

    Attributes:
        bytes: held by shapes now.
        peak_bytes: the most that were held at once.

    Raises:
        ShapesError: within it, when how many rows there are, or which way a step goes, depends on computed numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._held: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self.bytes = self.peak_bytes = 0

    def on_shapes(self, module: nn.Module) -> nn.Module:
        """Turn the parameters and buffers of a module, built on the meta device, into shapes, in place."""
        known: dict[Tensor, Tensor] = {}  # tied weights stay tied; tensors are hashed by identity
        for child in module.modules():
            for store in (child._parameters, child._buffers):
                for name, tensor in store.items():
                    if tensor is not None:
                        if tensor not in known:
                            known[tensor] = self._like(tensor)
                        store[name] = known[tensor]
        return module

    def empty(self, size: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a tensor of a shape and nothing more."""
        with self._fake:
            return self._hold(torch.empty(size, dtype=dtype))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(_is_shape(tensor) for tensor in given):
            return func(*args, **kwargs)
        if func in _CONSTANTS and (known := self._known(func, args, kwargs)) is not None:
            return self._hold(known)
        if func in _USUAL:
            return _USUAL[func](*args, **kwargs)
        if func in _INDEXING:
            args = (args[0], _integers(args[1]), *args[2:])
        args, kwargs = tree_map_only(Tensor, self._lifted, (args, kwargs))
        try:
            found = self._fake.__torch_dispatch__(func, types, args, kwargs)
        except (DynamicOutputShapeException, DataDependentOutputException) as error:
            raise _unknown(func) from error
        return tree_map_only(FakeTensor, self._hold, found)

    def _known(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
        """Return integers and truths that are the same whatever the numbers are: shapes may depend on them."""
        dtype = kwargs.get("dtype") or args[0].dtype
        if dtype.is_floating_point:
            return None
        like = torch.empty(args[0].shape, dtype=dtype, device="cpu")
        return func(like, *args[1:], **{**kwargs, "device": torch.device("cpu")})

    def _like(self, tensor: Tensor) -> Tensor:
        """Return a shape for a meta tensor; of integers, such as positions, real zeros, unless they are real."""
        if not tensor.is_floating_point() and not _is_shape(tensor):
            return tensor
        if not tensor.is_floating_point():
            return torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")
        shape = self.empty(tensor.shape, tensor.dtype)
        return nn.Parameter(shape, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shape

    def _lifted(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        if tensor.device.type == "meta":  # what a module keeps beside its buffers
            return self._like(tensor)
        return self._fake.from_tensor(tensor)

    def _hold(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key not in self._held:
            self.bytes += size
            self.peak_bytes = max(self.peak_bytes, self.bytes)
            self._held[key] = weakref.ref(storage, lambda _: self._let_go(key, size))
        return tensor

    def _let_go(self, key: int, size: int) -> None:
        del self._held[key]
        self.bytes -= size


def _is_shape(tensor: Tensor) -> bool:
    return isinstance(tensor, FakeTensor) or tensor.device.type == "meta"


def _integers(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Return masks as the places where they are true, since only real masks know how many there are."""
    places: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool:
            places.extend((_all_true(index) if _is_shape(index) else index).nonzero(as_tuple=True))
        else:
            places.append(index)
    return places


def _all_true(mask: Tensor) -> Tensor:
    return torch.ones(mask.shape, dtype=torch.bool, device="cpu")


def _nonzero(tensor: Tensor) -> Tensor:
    return _all_true(tensor).nonzero()


def _bincount(tensor: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    return torch.zeros(
        max(1, minlength), dtype=torch.int64 if weights is None else weights.dtype, device="cpu"
    )


def _selected(tensor: Tensor, mask: Tensor) -> Tensor:
    first, second = torch.broadcast_tensors(tensor, mask)
    return first.flatten() if _is_shape(mask) else first[second]


def _item(tensor: Tensor) -> bool:
    if tensor.dtype != torch.bool:
        raise _unknown(torch.ops.aten._local_scalar_dense.default)
    return True


def _unknown(func: Any) -> ShapesError:
    return ShapesError(
        f"a step on shapes alone came to {func}, whose outcome depends on numbers that only a real step knows: let "
        "what decides how many rows there are come from ids, masks, lengths or rows of the batch, which stay real; or "
        "make a few real steps, such as by fit with --trainer.max_steps 2 and another --run_dir, and look at the memory"
    )


_USUAL = {
    torch.ops.aten.nonzero.default: _nonzero,
    torch.ops.aten.bincount.default: _bincount,
    torch.ops.aten.masked_select.default: _selected,
    torch.ops.aten._local_scalar_dense.default: _item,
    torch.ops.aten.equal.default: lambda *_: True,
}
"""What fake tensors do not know, as it usually is."""

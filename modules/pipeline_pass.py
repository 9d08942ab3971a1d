"""One batch's way through the layers of a pipeline and back, in pieces, by the schedules of torch's pipelining."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from modules.seeding import seed_torch

if TYPE_CHECKING:
    from modules.pipeline import LayerPipeline

Given = tuple[tuple[Any, ...], dict[str, Any]]
"""What a layer is called with beside its input: masks, positions."""


def check_given(value: Any) -> None:
    """Refuse what a layer cannot be called with on another rank.

    Raises:
        ValueError: when it is nothing whose rows are known, or its gradient would be lost.
    """
    if isinstance(value, (tuple, list, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            check_given(each)
    elif isinstance(value, Tensor):
        if value.requires_grad:
            raise ValueError(
                "the layers are called with more than one tensor that has a gradient, and a pipeline sends that of "
                "the first alone: take configs/trainer/fsdp.yaml for this language model"
            )
    elif value is not None and not isinstance(value, (bool, int, float, str)):
        raise ValueError(
            f"the layers are called with a {type(value).__name__}, which a pipeline cannot divide into rows: take "
            "another attn_implementation, such as sdpa, or configs/trainer/fsdp.yaml"
        )


class Through(torch.autograd.Function):
    """All layers as one function: `Through.apply(hidden, way)`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, way: "Pass") -> Tensor:
        ctx.way = way
        ctx.save_for_backward(hidden)
        return way.forward(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (hidden,) = ctx.saved_tensors
        return ctx.way.backward(hidden, *gradients), None


class Pass:
    """One batch on its way: forward in pieces without a graph, and again, with one, when the gradient is there.

    Args:
        pipeline: whose layers.
        given: what each layer is called with.
        hidden: (rows, tokens, dim), what the first is called with.
    """

    def __init__(self, pipeline: "LayerPipeline", given: list[Given], hidden: Tensor) -> None:
        self.pipeline, self.given, self.count = pipeline, given, len(hidden)
        each = -(-self.count // min(pipeline.microbatches, self.count))
        pieces = -(-self.count // each)
        numbers = torch.arange(pieces * each, device=hidden.device)
        # The rows of each piece (pieces, rows), int64: the last one again where they do not come out even.
        self.rows = numbers.clamp(max=self.count - 1).view(pieces, each)
        kind = pipeline.device.type
        self.autocast = partial(
            torch.autocast, kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        )
        with torch.random.fork_rng(devices=[]):  # the numbers that others draw stay what they were
            self.seed = int(torch.randint(2**31, ())) + pipeline.rank

    def forward(self, hidden: Tensor) -> Tensor:
        """Return what comes out of the last layer (rows, tokens, dim), on all ranks."""
        pipeline = self.pipeline
        schedule = ScheduleGPipe(self._stage(hidden), len(self.rows))
        with self._seeded():
            made = schedule.step(rows=self.rows.flatten())
        found = torch.empty_like(hidden) if made is None else made[: self.count].contiguous()
        return pipeline.broadcast(found, pipeline.size - 1)

    def backward(self, hidden: Tensor, gradient: Tensor) -> Tensor:
        """Add up the layers' gradients and return that of the input, on all ranks."""
        pipeline = self.pipeline
        leaf = hidden.detach().requires_grad_()
        kind = Schedule1F1B if len(self.rows) >= pipeline.size else ScheduleGPipe
        schedule = kind(self._stage(leaf), len(self.rows), loss_fn=_weighed, scale_grads=False)
        target = gradient.new_zeros(self.rows.numel(), *gradient.shape[1:])  # rows that fill up count nothing
        target[: self.count] = gradient
        is_last = pipeline.rank == pipeline.size - 1
        with torch.enable_grad(), self._seeded():
            schedule.step(rows=self.rows.flatten(), target=target if is_last else None)
        return pipeline.broadcast(torch.empty_like(hidden) if leaf.grad is None else leaf.grad, 0)

    def compute(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """Return what this rank's layers make of some rows.

        Raises:
            ValueError: when it is not of the kind that the next rank waits for.
        """
        taken = hidden.dtype
        with self.autocast():
            for number, layer in self.pipeline.compute.items():
                args, kwargs = self.given[number]
                if len(self.rows) > 1:
                    args, kwargs = _of_rows((args, kwargs), rows, self.count)
                hidden = layer(hidden, *args, **kwargs)
        if not isinstance(hidden, Tensor) or hidden.dtype != taken:
            found = hidden.dtype if isinstance(hidden, Tensor) else f"a {type(hidden).__name__}"
            raise ValueError(
                f"the layers take {taken} and return {found}, expected the same: take configs/trainer/fsdp.yaml for "
                "this language model"
            )
        return hidden

    def _stage(self, hidden: Tensor) -> PipelineStage:
        # Made anew, as are its buffers: prompts have another length in every batch.
        shape = (self.rows.shape[1], *hidden.shape[1:])
        like = torch.empty(shape, dtype=hidden.dtype, device="meta", requires_grad=hidden.requires_grad)
        pipeline = self.pipeline
        return PipelineStage(
            _Piece(self, hidden),
            pipeline.rank,
            pipeline.size,
            pipeline.device,
            input_args=like,
            output_args=like,
            group=pipeline.group,
        )

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Have dropout draw in the backward what it drew in the forward."""
        device = self.pipeline.device
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
            seed_torch(self.seed, device)
            yield


class _Piece(nn.Module):
    """This rank's layers as torch's schedules call them: the first rank takes rows of the batch, others get theirs."""

    def __init__(self, way: Pass, hidden: Tensor) -> None:
        super().__init__()
        self.way, self.hidden = way, hidden

    def forward(self, *received: Tensor, rows: Tensor) -> Tensor:
        return self.way.compute(received[0] if received else self.hidden[rows], rows)


def _of_rows(value: Any, rows: Tensor, count: int) -> Any:
    """Return what belongs to some of the `count` rows; what has no rows is for all of them."""
    if isinstance(value, Tensor):
        return value[rows] if value.ndim > 1 and len(value) == count else value
    if isinstance(value, (tuple, list)):
        return tuple(_of_rows(each, rows, count) for each in value)
    if isinstance(value, dict):
        return {name: _of_rows(each, rows, count) for name, each in value.items()}
    return value


def _weighed(output: Tensor, gradient: Tensor) -> Tensor:
    """Return a loss whose gradient is the one that came from what stands behind the layers."""
    return (output * gradient).sum()

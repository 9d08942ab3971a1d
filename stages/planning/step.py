"""A training step run on shapes: the memory and the operations that it takes, as one process would."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from datamodules.batch import Batch
from modules.collectives import counted
from modules.shapes import Shapes
from stages.planning import memory
from stages.planning.layout import Layout
from stages.stage import Stage
from stages.window import Window


@dataclass(frozen=True)
class Step:
    """Bytes and operations of a step on shapes, as one process takes them."""

    inputs: int
    activations: int
    peak: int
    flops: float
    moments: list[tuple[nn.Parameter, int]]
    """Parameters in the order in which their gradients were found, with the bytes of activations then."""
    divided: float
    """Of the operations, those that ranks which share a batch divide among them, as large a share as of the forward."""


class _Losses(nn.Module):
    """A stage's losses as the call of a module, under which operations are counted by the names of its parts."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, batch: Batch) -> Tensor:
        return torch.stack(list(self.stage.losses(batch).values())).sum()


def step_on_shapes(stage: Stage, batch: Batch, layout: Layout) -> Step:
    """Run a stage's losses and their backward on shapes, twice where gradients accumulate.

    Args:
        stage: on the meta device, with parameters as wide as in the run; its parameters become shapes.
        batch: real.
        layout: how products are computed.

    Raises:
        ValueError: when the losses cannot be accumulated exactly.
        ShapesError: when the step depends on numbers that only a real one knows.
    """
    divided = set(memory.divided(stage, layout))
    losses, shapes = _Losses(stage), Shapes()
    shapes.on_shapes(stage)
    before = shapes.bytes
    inputs = _on_shapes(batch, shapes)
    held = shapes.bytes - before
    begin = shapes.bytes
    gradients: dict[nn.Parameter, int] = {}
    moments: list[tuple[nn.Parameter, int]] = []

    def note(parameter: nn.Parameter) -> None:
        nonlocal peak
        moments.append((parameter, shapes.peak_bytes - begin - sum(gradients.values())))
        gradients[parameter] = parameter.numel() * parameter.element_size()
        peak, shapes.peak_bytes = max(peak, shapes.peak_bytes), shapes.bytes

    for parameter in stage.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(note)
    passes = min(2, layout.accumulate)  # from the second on, gradients are there beside activations
    window, activations, peak, share = Window(), 0, 0, 0.0
    with shapes, FlopCounterMode(display=False) as counter:
        for _ in range(passes):
            there, shapes.peak_bytes = shapes.bytes, shapes.bytes
            with torch.autocast("cpu", layout.dtype, enabled=layout.casts), counted() as counts:
                total = losses(inputs)
            if layout.accumulate > 1:
                window.weight(counts)
            activations = max(activations, shapes.peak_bytes - there)
            share = share or _share(
                counter, [name for name, each in losses.named_modules() if each in divided]
            )
            moments.clear()
            peak, shapes.peak_bytes = max(peak, shapes.peak_bytes), shapes.bytes
            total.backward()
            del total
            peak = max(peak, shapes.peak_bytes)
    # A layer that is computed again in the backward takes more then than it did at first.
    activations = max(activations, peak - shapes.bytes)
    flops = counter.get_total_flops() / passes
    return Step(held, activations, peak, flops, moments, share * flops)


def _share(counter: FlopCounterMode, names: list[str]) -> float:
    """Return the share of the operations so far that are of modules called within `_Losses`."""
    counted_of = counter.get_flop_counts()
    some = sum(sum(counted_of.get(f"{_Losses.__name__}.{name}", {}).values()) for name in names)
    return some / max(1, counter.get_total_flops())


def _on_shapes(batch: Batch, shapes: Shapes) -> Batch:
    """Return the batch with sounds and pictures as shapes; ids and masks stay, since shapes depend on them."""

    def on_shapes(value: Tensor) -> Tensor:
        is_medium = value.is_floating_point() or value.dtype == torch.uint8
        return shapes.empty(value.shape, value.dtype) if is_medium else value

    inputs = {
        name: {key: on_shapes(value) for key, value in values.items()}
        for name, values in batch.inputs.items()
    }
    return Batch(inputs, batch.rows, batch.keys, batch.cursor)

"""Plan: what a run will need and do, found from shapes alone, before a GPU is paid for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from datamodules.batch import Batch
from modules.origin import origins
from modules.shapes import Shapes
from stages.stage import Stage

STATE_BYTES = 8  # of AdamW, for each trained parameter: two running averages in float32
MIN_NEGATIVES = 64
LR = (1e-5, 1e-4)
WARMUP = (0.05, 0.10)
WEIGHT_DECAY = (0.01, 0.10)
SHARDED = ("fsdp", "modelparallel", "deepspeed_stage_3", "zero3", "deepspeed")


@dataclass(frozen=True)
class Layout:
    """How a run is spread and computed, as its trainer's settings say.

    Args:
        ranks: processes with a GPU each.
        strategy: Lightning's name, or the last word of a class path.
        precision: as Lightning writes it, such as `bf16-mixed`.
        accumulate: batches of one optimiser step.
        max_steps: of the whole run.
        pipeline: ranks that share a batch, each with some of a language model's layers.
    """

    ranks: int
    strategy: str
    precision: str
    accumulate: int
    max_steps: int
    pipeline: int = 1

    @property
    def shares(self) -> int:
        """How many ranks have samples of their own."""
        return self.ranks // self.pipeline

    @property
    def is_sharded(self) -> bool:
        """Whether weights, gradients and optimiser state are spread over the ranks."""
        return any(word in self.strategy.lower() for word in SHARDED)

    @property
    def dtype(self) -> torch.dtype:
        """What products are computed in."""
        low = torch.float16 if self.precision.startswith("16") else torch.bfloat16
        return torch.float32 if self.precision.startswith("32") else low

    @property
    def weight_bytes(self) -> int:
        """Of one weight, as the optimiser has it."""
        return 2 if self.precision in ("bf16-true", "16-true") else 4

    @property
    def casts(self) -> bool:
        """Whether autocast keeps weights in low precision beside the weights, until the backward is done."""
        return self.precision.endswith("mixed") and not self.is_sharded

    @property
    def computes_in_low(self) -> bool:
        """Whether modules hold low precision when they compute; sharded ones are cast as they are gathered."""
        return self.dtype != torch.float32 and not self.casts

    @classmethod
    def of(cls, trainer: Mapping[str, Any]) -> "Layout":
        """Read the settings of a trainer.

        Raises:
            ValueError: when the number of GPUs is not stated.
        """
        strategy = trainer["strategy"]
        name = strategy if isinstance(strategy, str) else strategy["class_path"].rpartition(".")[2]
        ranks = _devices(trainer["devices"]) * int(trainer["num_nodes"] or 1)
        return cls(
            ranks,
            name,
            str(trainer["precision"] or "32-true"),
            int(trainer["accumulate_grad_batches"] or 1),
            int(trainer["max_steps"]),
            (strategy["init_args"]["size"] or ranks) if name == "Pipeline" else 1,
        )


@dataclass(frozen=True)
class PartSize:
    """Parameters of one part: how many are trained, how many frozen, and where they come from."""

    trained: int = 0
    frozen: int = 0
    random: int = 0
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a run will need and do.

    Args:
        layout: how it is spread.
        parts: parameters by part.
        memory: bytes on each GPU by kind, each at its most.
        peak: bytes on each GPU at the worst moment; activations go as gradients come, so it can be less than the sum.
        batch_size: samples of a batch over all ranks.
        tokens: modality -> (real tokens, places) of the batch that was looked at.
        flops: of forward and backward, for one sample.
        warnings: what is unusual, with what to do.
    """

    layout: Layout
    parts: dict[str, PartSize]
    memory: dict[str, int]
    peak: int
    batch_size: int
    tokens: dict[str, tuple[int, int]]
    flops: float
    warnings: list[str] = field(default_factory=list)

    def hours(self, mfu: float, peak_tflops: float) -> float:
        """Return how long the run takes when it uses a share `mfu` of `peak_tflops` of each GPU."""
        samples = self.layout.max_steps * self.layout.accumulate * self.batch_size
        return self.flops * samples / (mfu * peak_tflops * 1e12 * self.layout.ranks) / 3600


def plan(stage: Stage, batch: Batch, batch_size: int, layout: Layout) -> Plan:
    """Run one step of a stage on shapes and say what it takes.

    Args:
        stage: built on the meta device.
        batch: what one rank gets, real.
        batch_size: samples of a batch over all ranks.
        layout: how the run will be spread.
    """
    stage.configure_model()
    sizes = _part_sizes(stage)
    trained = sum(size.trained for size in sizes.values())
    kept = sum(buffer.numel() * buffer.element_size() for buffer in stage.buffers())
    weights = sum(size.trained + size.frozen for size in sizes.values()) * layout.weight_bytes + kept
    gradients = trained * layout.weight_bytes
    if layout.computes_in_low:
        stage.to(layout.dtype)
    shapes = Shapes()
    shapes.on_shapes(stage)
    before = shapes.bytes
    inputs = _on_shapes(batch, shapes)
    held = shapes.bytes - before
    passes = min(2, layout.accumulate)  # from the second on, gradients are there beside activations
    with shapes, FlopCounterMode(display=False) as counter:
        for _ in range(passes):
            begin, shapes.peak_bytes = shapes.bytes, shapes.bytes
            with torch.autocast("cpu", layout.dtype, enabled=layout.casts):
                total = torch.stack(list(stage.losses(inputs).values())).sum()
            activations = shapes.peak_bytes - begin
            total.backward()
            del total
    peak = shapes.peak_bytes + trained * STATE_BYTES
    memory = {
        "weights": weights,
        "gradients": gradients,
        "optimizer": trained * STATE_BYTES,
        "inputs": held,
        "activations": activations,
    }
    if layout.is_sharded:
        for kind in ("weights", "gradients", "optimizer"):
            memory[kind] //= layout.ranks
        memory["gathered weights"] = _largest_block(stage)
        peak = sum(memory.values())
    elif layout.pipeline > 1:
        held, changed = _on_other_ranks(stage, layout.pipeline)
        memory["weights"] -= held * layout.weight_bytes
        memory["gradients"] -= changed * layout.weight_bytes
        memory["optimizer"] -= changed * STATE_BYTES
        peak = sum(memory.values())
    elif layout.ranks > 1:
        memory["buckets of gradients"] = gradients
        peak += gradients
    return Plan(
        layout,
        sizes,
        memory,
        peak,
        batch_size,
        _tokens(batch),
        counter.get_total_flops() / passes / max(1, len(batch)),
        _warnings(stage, batch_size, layout),
    )


def report(plan: Plan, mfu: float, peak_tflops: float) -> None:
    """Print a plan as tables.

    Args:
        plan: what to say.
        mfu: share of the GPU's peak that the run is thought to reach.
        peak_tflops: of one GPU, 10^12 operations a second in the run's precision.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console()
    sizes = Table("part", "trained", "frozen", "of these random", "from", title="Parameters")
    for name, size in plan.parts.items():
        sizes.add_row(
            name,
            *(f"{count:,}" for count in (size.trained, size.frozen, size.random)),
            ", ".join(size.sources),
        )
    trained, frozen, fresh = (
        sum(values)
        for values in zip(*((s.trained, s.frozen, s.random) for s in plan.parts.values()), strict=True)
    )
    sizes.add_row("all", f"{trained:,}", f"{frozen:,}", f"{fresh:,}", "", style="bold")
    console.print(sizes)

    layout = plan.layout
    memory = Table(
        "kind", "GiB", title=f"Memory of each of {layout.ranks} ({layout.strategy}, {layout.precision})"
    )
    for kind, size in plan.memory.items():
        memory.add_row(kind, f"{size / 2**30:.3f}")
    memory.add_row("peak", f"{plan.peak / 2**30:.3f}", style="bold")
    console.print(memory)

    work = Table("what", "how much", title="Work")
    for name, (real, places) in plan.tokens.items():
        work.add_row(f"tokens of {name} in a batch", f"{real:,}, and {1 - real / max(1, places):.0%} padding")
    steps = layout.max_steps * layout.accumulate * plan.batch_size
    work.add_row(
        "samples", f"{steps:,} in {layout.max_steps:,} steps of {layout.accumulate * plan.batch_size:,}"
    )
    work.add_row("FLOPs a sample, forward and backward", f"{plan.flops:.3g}")
    hours = plan.hours(mfu, peak_tflops)
    work.add_row(f"hours at an MFU of {mfu:.0%} of {peak_tflops:g} TFLOP/s", f"{hours:.3g}")
    console.print(work)
    for warning in plan.warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False)


def _part_sizes(stage: Stage) -> dict[str, PartSize]:
    """Count parameters by the part they are handed over in; the rest by the name that the stage has for it."""
    owners = {
        id(parameter): name
        for name, part in reversed(stage.exports().items())
        for parameter in part.parameters()
    }
    sources = origins(stage)
    counted: dict[str, PartSize] = {}
    for name, parameter in stage.named_parameters():
        owner = owners.get(id(parameter), name.partition(".")[0])
        before, source = counted.get(owner, PartSize()), sources[name]
        size = parameter.numel()
        trained = size if parameter.requires_grad else 0
        seen = before.sources if source is None or source in before.sources else (*before.sources, source)
        counted[owner] = PartSize(
            before.trained + trained,
            before.frozen + size - trained,
            before.random + (size if source is None else 0),
            seen,
        )
    return counted


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


def _tokens(batch: Batch) -> dict[str, tuple[int, int]]:
    return {
        name: (int(mask.sum()), mask.numel())
        for name, values in batch.inputs.items()
        for mask in [_mask(values)]
        if mask is not None
    }


def _mask(inputs: Mapping[str, Tensor]) -> Tensor | None:
    return next((inputs[key] for key in ("attention_mask", "mask") if key in inputs), None)


def _largest_block(stage: Stage) -> int:
    """Return the bytes of the largest child of a list of layers: what a sharded rank gathers, now and for next."""
    lists = [module for module in stage.modules() if isinstance(module, torch.nn.ModuleList)]
    sizes = [
        sum(p.numel() * p.element_size() for p in child.parameters()) for layers in lists for child in layers
    ]
    return 2 * max(sizes, default=0)


def _on_other_ranks(stage: Stage, ranks: int) -> tuple[int, int]:
    """Return how many parameters, and trained ones, are at least in layers that a pipeline has on other ranks.

    Raises:
        ValueError: when its layers cannot be divided.
    """
    from modules.pipeline import dividable_layers  # costs a second

    layers = dividable_layers(stage, ranks)
    most = -(-len(layers) // ranks)
    sizes = [[(p.numel(), p.requires_grad) for p in layer.parameters()] for layer in layers]
    held = sorted(sum(size for size, _ in layer) for layer in sizes)
    changed = sorted(sum(size for size, is_trained in layer if is_trained) for layer in sizes)
    return sum(held[: len(layers) - most]), sum(changed[: len(layers) - most])


def _warnings(stage: Stage, batch_size: int, layout: Layout) -> list[str]:
    optim, found = stage.optim, []
    contrasts = "logit_scale" in {name.rpartition(".")[2] for name, _ in stage.named_parameters()}
    if contrasts and batch_size < MIN_NEGATIVES:
        found.append(
            f"data.batch_size is {batch_size}: a contrastive loss has {batch_size - 1} negatives, fewer than "
            f"{MIN_NEGATIVES}; raise it"
        )
    for key, value, (low, high) in (
        ("lr", optim.lr, LR),
        ("warmup_share", optim.warmup_share, WARMUP),
        ("weight_decay", optim.weight_decay, WEIGHT_DECAY),
    ):
        if not low <= value <= high:
            found.append(f"model.optim.{key} is {value:g}; large models take {low:g} to {high:g}")
    if layout.shares > 1 and batch_size % layout.shares:
        found.append(
            f"data.batch_size {batch_size} does not divide by {layout.shares} ranks: the run will be refused"
        )
    return found


def _devices(devices: Any) -> int:
    if isinstance(devices, (list, tuple)):
        return len(devices)
    if str(devices) == "auto":
        return 1
    if not str(devices).isdigit() or int(devices) < 1:
        raise ValueError(f"trainer.devices is {devices!r}: a plan needs their number, such as 8")
    return int(devices)

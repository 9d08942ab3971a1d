"""Plan: what a run will need and do, found from shapes alone, before a GPU is paid for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from callbacks.activation_checkpointing import compute_layers_again
from datamodules.batch import Batch
from datamodules.samples import SampleDataModule
from modules.origin import origins
from stages.planning import memory
from stages.planning.layout import Layout
from stages.planning.step import step_on_shapes
from stages.precision import HalfWeights
from stages.stage import NOTHING_TO_TRAIN, Stage

MIN_NEGATIVES = 64
LR = (1e-5, 1e-4)
WARMUP = (0.05, 0.10)
WEIGHT_DECAY = (0.01, 0.10)


@dataclass(frozen=True)
class Speed:
    """How fast each GPU is thought to be.

    Args:
        mfu: share of its peak that the run reaches.
        peak_tflops: 10^12 operations a second in the run's precision.

    Raises:
        ValueError: when a number makes no sense.
    """

    mfu: float
    peak_tflops: float

    def __post_init__(self) -> None:
        if not 0 < self.mfu <= 1:
            raise ValueError(f"--mfu is {self.mfu:g}: expected a share above 0 and up to 1, such as 0.4")
        if not self.peak_tflops > 0:
            raise ValueError(
                f"--peak_tflops is {self.peak_tflops:g}: expected more than 0, such as 989, an H100's in bf16"
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
        filled: modality -> (what is real, places) of a rank's batch: tokens, frames, or numbers of a waveform.
        flops: of forward and backward, for one sample.
        repeated: of these, what each rank computes of those that share a batch.
        warmup: steps over which the learning rate grows.
        warnings: what is unusual, with what to do.
    """

    layout: Layout
    parts: dict[str, PartSize]
    memory: dict[str, int]
    peak: int
    batch_size: int
    filled: dict[str, tuple[int, int]]
    flops: float
    repeated: float = 0.0
    warmup: int = 0
    warnings: list[str] = field(default_factory=list)

    def step_s(self, speed: Speed) -> float:
        """Return how many seconds a step takes at a speed of each GPU."""
        samples = self.layout.accumulate * self.batch_size
        sharing = self.layout.ranks // self.layout.shares
        flops = samples * (self.flops + (sharing - 1) * self.repeated)
        return flops / (speed.mfu * speed.peak_tflops * 1e12 * self.layout.ranks)

    def hours(self, speed: Speed) -> float:
        """Return how long the run takes at a speed of each GPU."""
        return self.layout.max_steps * self.step_s(speed) / 3600


def check(stage: Stage, data: SampleDataModule, layout: Layout) -> list[str]:
    """Let a stage check what it checks before the first step; return what it warns of.

    Raises:
        ValueError: when it refuses.
    """
    stage.configure_model()
    stage.check_accumulation(layout.accumulate, layout.is_deepspeed)
    stage.check_data(data)
    warning = stage.warning_of_batch_norms(layout.ranks)
    return [warning] if warning else []


def plan(stage: Stage, batch: Batch, batch_size: int, layout: Layout, warned: Sequence[str] = ()) -> Plan:
    """Run one step of a stage on shapes and say what it takes.

    Args:
        stage: built on the meta device.
        batch: what one rank gets, real.
        batch_size: samples of a batch over all ranks.
        layout: how the run will be spread.
        warned: what is to be warned of beside what is found here.

    Raises:
        ValueError: when nothing is trained, or the model or its losses do not go with the layout, in the run's words.
        ShapesError: when the step cannot be run on shapes.
    """
    if layout.checkpoints:
        compute_layers_again(stage)
    stage.configure_model()
    if not any(parameter.requires_grad for parameter in stage.parameters()):
        raise ValueError(NOTHING_TO_TRAIN)
    stage.train()
    sizes = _part_sizes(stage)
    if layout.has_half_weights:
        HalfWeights("16-true" if layout.dtype == torch.float16 else "bf16-true", "cpu").convert_module(stage)
    needed = memory.held(stage, layout)
    step = step_on_shapes(stage, batch, layout)
    needed |= {"inputs": step.inputs, "activations": step.activations}
    peak = sum(needed.values())
    if layout.zero == 3 and layout.shards > 1:
        gathering = memory.Gathering(stage, layout)
        gradients, most = gathering.backward(step.moments, layout.accumulate > 1)
        needed |= {"gathered weights": gathering.weights, "gathered gradients": gradients}
        most = max(most, step.activations + gathering.weights)
        peak = needed["weights"] + needed["optimizer"] + needed["inputs"] + most
    elif not layout.zero and not layout.pipeline:  # then the step's own worst moment is the run's
        peak = step.peak + needed["optimizer"] + needed.get("buckets of gradients", 0)
    notes = list(layout.notes)
    for kind in layout.offloaded:
        aside = needed.pop(kind)
        peak -= aside
        notes.append(f"{kind}, {aside / 2**30:.3f} GiB of each rank, are in the CPU's memory")
    return Plan(
        layout,
        sizes,
        needed,
        peak,
        batch_size,
        {name: found for name, values in batch.inputs.items() if (found := _filled(values))},
        step.flops / max(1, len(batch)),
        (step.flops - step.divided) / max(1, len(batch)),
        stage.optim.warmup_steps(layout.max_steps),
        [*notes, *warned, *_warnings(stage, batch_size)],
    )


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


def _filled(inputs: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Return how many places of a modality's inputs are real, and how many there are; None where all are."""
    for key in ("attention_mask", "mask"):
        if key in inputs:
            return int(inputs[key].sum()), inputs[key].numel()
    if "lengths" in inputs:
        return int(inputs["lengths"].sum()), inputs["waveform"].numel()
    return None


def _warnings(stage: Stage, batch_size: int) -> list[str]:
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
    return found

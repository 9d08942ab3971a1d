"""Layout: how a run is spread over ranks and computed, read from its trainer's settings before there is a trainer."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

CHECKPOINTING = "callbacks.activation_checkpointing.CheckpointActivations"


@dataclass(frozen=True)
class Layout:
    """How a run is spread and computed, as its trainer's settings say.

    Args:
        ranks: processes with a GPU each.
        strategy: Lightning's name, or the last word of a class path.
        precision: as Lightning writes it, such as `bf16-mixed`.
        accumulate: batches of one optimiser step.
        max_steps: of the whole run.
        zero: what is spread over ranks (ZeRO, arXiv:1910.02054, figure 1): 1 the optimiser's state, 2 gradients too,
            3 weights too.
        tensor_parallel: ranks that share a batch and split products.
        pipeline: ranks that share a batch, each with some of a language model's layers; 0 where none do.
        replicas: whole copies of a model whose weights are spread.
        by_layer: whether what is spread is put together a layer at a time (FSDP2, ZeRO-3), not all at once.
        has_buckets: whether gradients are held a second time, to be sent.
        is_deepspeed: whether low precision leaves float32 weights with the optimiser alone.
        offloaded: kinds of memory that are the CPU's, such as `optimizer`.
        checkpoints: whether layers keep their input alone (`CheckpointActivations`).
        notes: what was assumed.
    """

    ranks: int
    strategy: str
    precision: str
    accumulate: int
    max_steps: int
    zero: int = 0
    tensor_parallel: int = 1
    pipeline: int = 0
    replicas: int = 1
    by_layer: bool = True
    has_buckets: bool = False
    is_deepspeed: bool = False
    offloaded: tuple[str, ...] = ()
    checkpoints: bool = False
    notes: tuple[str, ...] = ()

    @property
    def shares(self) -> int:
        """How many ranks have samples of their own."""
        return self.ranks // (max(1, self.pipeline) * self.tensor_parallel)

    @property
    def shards(self) -> int:
        """Over how many ranks that is spread which `zero` says."""
        return self.shares // self.replicas

    @property
    def dtype(self) -> torch.dtype:
        """What products are computed in."""
        low = torch.float16 if self.precision.startswith("16") else torch.bfloat16
        return torch.float32 if self.precision.startswith("32") else low

    @property
    def casts(self) -> bool:
        """Whether autocast chooses what each operation is computed in."""
        return self.dtype != torch.float32

    @property
    def has_half_weights(self) -> bool:
        """Whether parameters are of 16 bits."""
        return self.casts and (self.precision.endswith("true") or self.is_deepspeed)

    @classmethod
    def of(cls, trainer: Mapping[str, Any]) -> "Layout":
        """Read the settings of a trainer.

        Raises:
            ValueError: when the number of GPUs makes no sense, or does not divide as the strategy would have it.
        """
        from lightning.pytorch import strategies

        from stages.strategies import FlatSharded, Pipeline, Sharded, check_precision

        kind, name, given = _strategy(trainer["strategy"])
        sharing = {Sharded: "tensor_parallel_size", Pipeline: "size"}.get(kind, "")
        together = int(given.get(sharing) or 1) * int(given.get("replicas") or 1)
        nodes = int(trainer["num_nodes"] or 1)
        devices, notes = _devices(trainer["devices"], nodes, together)
        ranks = devices * nodes
        if ranks % together:
            raise ValueError(
                f"trainer.strategy would have {together} ranks together, which does not divide the {ranks} ranks "
                f"({nodes} nodes of {devices}): expected a divisor"
            )
        precision = str(trainer["precision"] or "32-true")
        if issubclass(kind, (FlatSharded, Pipeline)):
            check_precision(precision)
        spread: dict[str, Any] = {}
        if issubclass(kind, strategies.ModelParallelStrategy):
            spread = {
                "zero": 3,
                "tensor_parallel": int(given.get("tensor_parallel_size") or 1),
                "replicas": int(given.get("replicas") or 1),
            }
        elif issubclass(kind, strategies.DeepSpeedStrategy):
            spread = {
                "zero": int(given.get("stage", 2)),
                "is_deepspeed": True,
                "offloaded": ("optimizer",) * bool(given.get("offload_optimizer"))
                + ("weights",) * bool(given.get("offload_parameters")),
            }
        elif issubclass(kind, strategies.FSDPStrategy):
            spread = {
                "zero": 3,
                "by_layer": bool(given.get("auto_wrap_policy")),
                "offloaded": ("weights", "gradients", "optimizer") * bool(given.get("cpu_offload")),
            }
        elif issubclass(kind, Pipeline):
            spread = {"pipeline": int(given.get("size") or ranks)}
        elif ranks > 1:
            spread = {"has_buckets": not given.get("gradient_as_bucket_view")}
        return cls(
            ranks,
            name,
            precision,
            int(trainer["accumulate_grad_batches"] or 1),
            int(trainer["max_steps"]),
            checkpoints=any(
                each.get("class_path") == CHECKPOINTING for each in _listed(trainer["callbacks"])
            ),
            notes=notes,
            **spread,
        )


def _strategy(strategy: Any) -> tuple[type, str, Mapping[str, Any]]:
    """Return a strategy's class, its name, and the arguments that it is given."""
    from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry

    if isinstance(strategy, str):
        if strategy == "auto":
            return DDPStrategy, strategy, {}
        if strategy not in StrategyRegistry:
            raise ValueError(
                f"trainer.strategy is {strategy!r}: expected one of {', '.join(StrategyRegistry)}, or a class_path"
            )
        known = StrategyRegistry[strategy]
        return known["strategy"], strategy, known["init_params"]
    module, _, name = strategy["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name), name, strategy.get("init_args") or {}


def _devices(devices: Any, nodes: int, together: int) -> tuple[int, tuple[str, ...]]:
    """Return how many devices each node has, and what was assumed of them.

    Args:
        devices: as Lightning takes them.
        nodes: of the run.
        together: ranks that the strategy would have together, at the least.
    """
    if isinstance(devices, (list, tuple)):
        return len(devices), ()
    text = str(devices)
    if text in ("auto", "-1"):
        here = torch.cuda.device_count()
        count = here or max(1, -(-together // nodes))
        found = f"the {here} GPUs that are here" if here else f"{count}, since no GPU is here"
        return count, (
            f"trainer.devices is {text}: each node is planned with {found}; say the run's, such as --trainer.devices 8",
        )
    if "," in text:
        return len([each for each in text.split(",") if each.strip()]), ()
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"trainer.devices is {devices!r}: a plan needs their number, such as 8")
    return int(text), ()


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]

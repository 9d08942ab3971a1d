"""Sharded: FSDP2 over all ranks, or over those of one copy of the model. FlatSharded: the first FSDP. Pipeline: layers
over ranks."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import Optimizer
from torchmetrics import Metric

from modules import collectives, parallel, pipeline
from stages.stage import Stage


class Sharded(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy, whose number of data-parallel ranks follows from all ranks.

    How a model is sharded and split stands in `modules/parallel.py`. It runs on GPUs (nccl) and on CPUs (gloo).

    Args:
        tensor_parallel_size: ranks that share a batch and split each product of the language model; 1 shards alone.
        replicas: copies of the model, each sharded over its own ranks, over which gradients are averaged: with as many
            as there are nodes, weights are gathered within a node, and gradients alone go between nodes.
        timeout_minutes: how long a rank waits for the others before it gives up.
    """

    def __init__(
        self, tensor_parallel_size: int = 1, replicas: int = 1, timeout_minutes: float = 30.0
    ) -> None:
        super().__init__(
            tensor_parallel_size=tensor_parallel_size, timeout=timedelta(minutes=timeout_minutes)
        )
        self.split, self.replicas = tensor_parallel_size, replicas

    def setup_environment(self) -> None:
        """Divide the ranks.

        Raises:
            ValueError: when they do not divide by `tensor_parallel_size` and `replicas`.
        """
        ranks = self.num_nodes * self.num_processes
        if min(self.split, self.replicas) < 1 or ranks % (self.split * self.replicas):
            raise ValueError(
                f"tensor_parallel_size {self.split} times replicas {self.replicas} does not divide the {ranks} ranks "
                f"({self.num_nodes} nodes of {self.num_processes}): expected a divisor"
            )
        self._data_parallel_size = ranks // self.split
        super().setup_environment()
        if self.replicas > 1:
            sizes = (self.replicas, self._data_parallel_size // self.replicas, self.split)
            names = ("replicate", "shard", "tensor_parallel")
            mesh = init_device_mesh(self.root_device.type, sizes, mesh_dim_names=names)
            mesh["replicate", "shard"]._flatten("data_parallel")  # torch has no public name for it yet
            assert self.lightning_module is not None
            self._device_mesh = self.lightning_module._device_mesh = mesh

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load weights and optimiser states from a file or from shards, however they were spread when saved.

        Raises:
            ShardsError: as `modules.restoring.restore` does.
            StateError: likewise.
        """
        from modules.restoring import restore  # costs a second

        assert self.model is not None
        return restore(Path(self.broadcast(str(checkpoint_path))), self.model, self.optimizers)


class FlatSharded(Sharded):
    """The first FSDP, which spreads each layer's weights as one flat vector.

    Lightning's FSDPStrategy shards the whole model as one, refuses scalars and clipping, rounds input and buffers too,
    and wants a GPU. Checkpoints are those of `Sharded`.

    Args:
        timeout_minutes: how long a rank waits for the others before it gives up.
    """

    def __init__(self, timeout_minutes: float = 30.0) -> None:
        super().__init__(timeout_minutes=timeout_minutes)

    def setup_environment(self) -> None:
        super().setup_environment()
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = None  # by which a stage would shard itself, by FSDP2

    def setup(self, trainer: Trainer) -> None:
        """Shard the model.

        Raises:
            ValueError: when gradients would be scaled by each rank on its own.
        """
        check_precision(str(trainer.precision))
        super().setup(trainer)

    def model_to_device(self) -> None:
        """Shard, layer by layer, what is still on the CPU, so that no GPU ever has the whole."""
        assert self.model is not None and self.device_mesh is not None
        for metric in (child for child in self.model.modules() if isinstance(child, Metric)):
            metric.to(self.root_device)  # the wrapper moves parameters and buffers alone
        self.model = parallel.shard_flat(self.model, self.device_mesh["data_parallel"], self.root_device)


class Pipeline(DDPStrategy):
    """The layers of a language model divided over ranks, which batches go through in pieces (torch's pipelining).

    How stands in `modules/pipeline.py`. It runs on GPUs (nccl) and on CPUs (gloo). The ranks of a pipeline share a
    batch; where there are more ranks, several pipelines have batches of their own, and gradients are averaged.
    Checkpoints and parts are those of one process.

    Args:
        microbatches: pieces of a batch; with n ranks, a rank waits for (n - 1) / (microbatches + n - 1) of the time.
        size: ranks of one pipeline; None for all.
        timeout_minutes: how long a rank waits for the others before it gives up.

    Raises:
        ValueError: when a number is not positive.
    """

    def __init__(self, microbatches: int = 4, size: int | None = None, timeout_minutes: float = 30.0) -> None:
        if microbatches < 1 or (size is not None and size < 1):
            raise ValueError(f"expected positive numbers, got microbatches={microbatches} and size={size}")
        super().__init__(timeout=timedelta(minutes=timeout_minutes))
        self.microbatches, self.size = microbatches, size

    @property
    def stage(self) -> Stage:
        assert isinstance(self.lightning_module, Stage)
        return self.lightning_module

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Ranks of a pipeline share samples."""
        rank, samples = collectives.world()
        return {"num_replicas": samples, "rank": rank}

    def setup_environment(self) -> None:
        """Divide the ranks.

        Raises:
            ValueError: when they do not divide by `size`.
        """
        ranks = self.num_nodes * self.num_processes
        size = self.size or ranks
        if ranks % size:
            raise ValueError(
                f"size is {size}, which does not divide the {ranks} ranks ({self.num_nodes} nodes of "
                f"{self.num_processes}): expected a divisor"
            )
        super().setup_environment()
        names = ("data_parallel", "pipeline")
        self.mesh = init_device_mesh(self.root_device.type, (ranks // size, size), mesh_dim_names=names)
        collectives.use_group(self.mesh["data_parallel"].get_group())

    def setup(self, trainer: Trainer) -> None:
        """Divide the layers, behind whose restored weights this comes, and move to the device what stays here.

        Raises:
            ValueError: when they cannot be divided, or gradients would be scaled by each rank on its own.
        """
        check_precision(str(trainer.precision))
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.precision_plugin.convert_module(self.stage)
        if self.stage.pipeline is None:
            layers = pipeline.dividable_layers(self.stage, self.mesh["pipeline"].size())
            self.stage.pipeline = pipeline.LayerPipeline(
                layers, self.mesh, microbatches=self.microbatches, device=self.root_device
            )
        self.model_to_device()
        if trainer.state.fn is TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def model_to_device(self) -> None:
        """Move all but the layers of other ranks, of which there is nothing to move."""
        with self._layers_aside():
            self.stage.to(self.root_device)

    def teardown(self) -> None:
        with self._layers_aside():
            super().teardown()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return on the first rank the state of all layers' parameters; all ranks call it."""
        assert self.stage.pipeline is not None
        saved = super().optimizer_state(optimizer)
        mine = self.stage.pipeline.own_parameters()
        numbers = [number for number, each in enumerate(_parameters(optimizer)) if each in mine]
        tensors = {
            (number, name): value
            for number in numbers
            for name, value in saved["state"].get(number, {}).items()
        }
        for (number, name), value in self.stage.pipeline.gather(tensors).items():
            saved["state"].setdefault(number, {})[name] = value
        return saved

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the states of the parameters that are here."""
        states = []
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            here = {number for number, each in enumerate(_parameters(optimizer)) if not each.is_meta}
            states.append(
                {
                    **saved,
                    "state": {number: value for number, value in saved["state"].items() if number in here},
                }
            )
        super().load_optimizer_state_dict({**checkpoint, "optimizer_states": states})

    def _layers_aside(self) -> AbstractContextManager[None]:
        module = self.lightning_module
        is_divided = isinstance(module, Stage) and module.pipeline is not None
        return module.pipeline.others_aside() if is_divided else nullcontext()


def check_precision(precision: str) -> None:
    """Refuse, for strategies whose ranks hold gradients of their own, what each rank would scale on its own.

    Raises:
        ValueError: when it is `16-mixed`.
    """
    if precision == "16-mixed":
        raise ValueError(
            "the ranks would each scale float16 gradients on their own: set trainer.precision to bf16-mixed or 32-true"
        )


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]

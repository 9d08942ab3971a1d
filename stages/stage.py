"""Stage: what every training stage shares, so that a stage itself is its losses and what it hands on."""

import difflib
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.strategies import DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import GradClipAlgorithmType, rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from callbacks.logged_steps import is_logged_step
from callbacks.running_statistics import is_frozen
from datamodules.batch import Batch
from modules import parallel
from modules.collectives import counted
from modules.origin import listed
from modules.parts import Part
from stages.idle import Idle
from stages.optim import Optim, can_be_fused
from stages.window import Window

if TYPE_CHECKING:
    from datamodules.samples import SampleDataModule
    from modules.pipeline import LayerPipeline  # costs a second


NOTHING_TO_TRAIN = "lr_factors freezes every parameter: there is nothing to train"


class Stage(LightningModule):
    """Base of the training stages.

    A subclass writes `losses(batch)` and `exports()`; this class sums and logs, builds the optimiser with
    learning-rate factors by name prefix, and schedules.

    Args:
        optim: optimiser and schedule.
        lr_factors: name prefix -> factor of the learning rate; 0 freezes. The longest matching prefix wins.
    """

    def __init__(self, optim: Optim | None = None, lr_factors: dict[str, float] | None = None) -> None:
        super().__init__()
        self.optim = optim or Optim()
        self.lr_factors = dict(lr_factors or {})
        self._window = Window()
        self._idle = Idle()
        self._is_distributed = False
        self._matrices: set[str] = set()  # by their names before a strategy flattens them
        self.pipeline: LayerPipeline | None = None
        """Where the strategy has divided the layers of a language model over ranks."""

    # ---- what a stage says of itself

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return named scalar losses of one batch; they are summed."""

    @abstractmethod
    def exports(self) -> dict[str, Part]:
        """Return what the next stage starts from, by name: `<group>.<modality>`, or one word."""

    @property
    @abstractmethod
    def input_configs(self) -> dict[str, dict[str, Any]]:
        """Say how the data module makes the inputs of every modality."""

    @property
    def require(self) -> list[str]:
        """Modalities that every sample must have."""
        return []

    @property
    def compares_samples(self) -> bool:
        """Whether a sample's loss depends on the others of its batch: batches in turn are then not one large batch."""
        return False

    @property
    def chance(self) -> dict[str, float]:
        """What a guess would reach, by score."""
        return {}

    @property
    def report(self) -> dict[str, Any]:
        """What the last validation found beside what was logged, as plain values; it goes into metrics.json."""
        return {}

    # ---- Lightning's hooks

    def configure_model(self) -> None:
        """Freeze here: in `configure_optimizers` DDP has wrapped the module already."""
        factors = self._factors()
        self._matrices = {name for name, parameter in self.named_parameters() if parameter.ndim > 1}
        self._free()
        self._check_trainable()
        for name, parameter in self.named_parameters():
            if factors[name] == 0:
                parameter.requires_grad_(False)
        if self.device_mesh is not None and not self._is_distributed:
            self._is_distributed = True
            # Before it is sharded: a shard keeps the width that it was made with.
            self.trainer.precision_plugin.convert_module(self)
            parallel.distribute(self, self.device_mesh, methods=["losses"])

    def train(self, mode: bool = True) -> "Stage":
        """Switch to training, but for frozen modules, whose dropout and statistics stay still."""
        super().train(mode)
        for module in self.modules():
            if module is not self and is_frozen(module):
                module.eval()
        return self

    def on_fit_start(self) -> None:
        """Refuse to accumulate what does not add up, and warn of what depends on the number of ranks.

        Raises:
            ValueError: as `check_accumulation` does.
        """
        is_deepspeed = isinstance(self.trainer.strategy, DeepSpeedStrategy)
        self.check_accumulation(self.trainer.accumulate_grad_batches, is_deepspeed)
        if warning := self.warning_of_batch_norms(self.trainer.world_size):
            rank_zero_warn(warning)

    # ---- what is checked before the first step, by a plan too, which has no trainer

    def check_accumulation(self, batches: int, is_deepspeed: bool) -> None:
        """Refuse to accumulate what does not add up.

        Args:
            batches: of one step.
            is_deepspeed: whether the strategy is DeepSpeed's.

        Raises:
            ValueError: when the loss compares the samples of a batch, or gradients are where only DeepSpeed has them.
        """
        if self.compares_samples and batches > 1:
            raise ValueError(
                f"trainer.accumulate_grad_batches is {batches}, but the loss compares the "
                "samples of a batch, and those of several batches would not meet: set it to 1 and raise "
                "data.batch_size (align encodes a batch in pieces: model.chunks)"
            )
        if is_deepspeed and batches > 1:
            raise ValueError(
                f"trainer.accumulate_grad_batches is {batches}, but DeepSpeed keeps the "
                "gradients to itself, so that batches cannot be weighed by their terms: set it to 1 and lower "
                "data.batch_size, or take configs/trainer/fsdp.yaml"
            )

    def check_data(self, data: "SampleDataModule") -> None:
        """Refuse data from which nothing would be learnt."""

    def warning_of_batch_norms(self, ranks: int) -> str | None:
        """Return what to say of norms whose statistics are over a rank's own samples; None where there are none."""
        found = [
            ".".join(name.split(".")[:2])
            for name, module in self.named_modules()
            if isinstance(module, _BatchNorm)
            and not isinstance(module, nn.SyncBatchNorm)
            and _is_trained(module)
        ]
        if not found or ranks == 1:
            return None
        return (
            f"{', '.join(sorted(set(found)))} have batch norms, whose statistics are over a rank's own samples: "
            "the gradient depends on the number of ranks. Freeze them (lr_factors: 0), take an encoder with layer "
            "norms, or, on GPUs under ddp, set trainer.sync_batchnorm to true"
        )

    # ---- steps

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        self.trainer.datamodule.consumed(batch)
        with counted() as counts:
            losses = self.losses(batch)
        total = torch.stack(list(losses.values())).sum()
        self._log("train", {**losses, "loss": total}, batch, prog_bar=("loss",))
        total = self._without_waiting(total)
        if self.trainer.accumulate_grad_batches == 1:
            return total
        return total * self._window.weight(counts)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring accumulated gradients to those of the mean over all terms, before they are clipped."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if self.pipeline is not None:
            self.pipeline.agree(parameters)
        self._idle.release()
        if self.trainer.accumulate_grad_batches > 1:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            self._window.close(gradients, self.trainer.accumulate_grad_batches)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        losses = self.losses(batch)
        total = torch.stack(list(losses.values())).sum()
        self._log("val", {**losses, "loss": total}, batch, prog_bar=())

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm over all ranks, however the parameters are spread."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        is_by_norm = gradient_clip_val and gradient_clip_algorithm in (None, "norm")
        if self.pipeline is not None and is_by_norm:
            self.pipeline.clip_gradients(parameters, gradient_clip_val)
            return
        model = self.trainer.strategy.model
        if isinstance(model, FullyShardedDataParallel) and is_by_norm:
            model.clip_grad_norm_(gradient_clip_val)
            return
        is_spread = any(parallel.mesh_of(parameter) is not None for parameter in parameters)
        if is_spread and is_by_norm:
            parallel.clip_gradients(parameters, gradient_clip_val)
            return
        plugin = self.trainer.precision_plugin
        if gradient_clip_val and isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            # Lightning refuses to clip before any fused step under autocast, because a gradient scaler would unscale
            # in that step; bfloat16 has no scaler.
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> dict[str, Any]:
        max_steps = (
            self.trainer.max_steps
        )  # never estimated_stepping_batches: it drops the loader's state on resume
        groups = self._groups()
        # With float16's gradient scaler the fused step unscales by itself, after Lightning would have clipped.
        is_fused = self.trainer.precision != "16-mixed" and can_be_fused(groups)
        optimizer = torch.optim.AdamW(
            groups, lr=self.optim.lr, betas=tuple(self.optim.betas), fused=is_fused or None
        )

        def step_as_here(_: torch.optim.Optimizer, state: dict[str, Any]) -> None:
            for group in state["param_groups"]:  # a checkpoint says how its own machine stepped
                group["fused"] = is_fused or None

        optimizer.register_load_state_dict_pre_hook(step_as_here)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.optim.factor(step, max_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ---- how it is done

    def _without_waiting(self, loss: Tensor) -> Tensor:
        """Return the loss, with which DDP does not wait for parameters that it does not depend on; name them once."""
        is_replicated = isinstance(self.trainer.strategy.model, DistributedDataParallel)
        if not is_replicated and not isinstance(self.trainer.strategy, SingleDeviceStrategy):
            return loss  # sharded weights need not all have a gradient
        if self._idle.parameters is None:
            self._idle.find(self, loss)
            if self._idle.parameters and not self.trainer.global_step:
                rank_zero_info(
                    f"no loss depends on {listed(self._idle.parameters)}: they stay as they are; a factor of 0 in "
                    "lr_factors says that they are to"
                )
        return self._idle.join(loss) if is_replicated else loss

    def _log(
        self, split: str, values: Mapping[str, Tensor], batch: Batch, prog_bar: tuple[str, ...] = ()
    ) -> None:
        if self._trainer is None or (split == "train" and not is_logged_step(self.trainer)):
            return  # a plan's step has no trainer
        for name, value in values.items():
            self.log(
                f"{split}/{name}",
                value.detach(),
                prog_bar=name in prog_bar,
                batch_size=len(batch),
                sync_dist=split == "val",
            )

    def _factors(self) -> dict[str, float]:
        """Return the learning-rate factor of every parameter.

        Raises:
            ValueError: when a prefix of `lr_factors` matches no parameter; names the nearest that would.
        """
        names = [parallel.plain_name(name) for name, _ in self.named_parameters()]
        for prefix in self.lr_factors:
            if not any(_matches(prefix, name) for name in names):
                known = sorted(
                    {name.rsplit(".", depth)[0] for name in names for depth in range(name.count(".") + 1)}
                )
                near = difflib.get_close_matches(prefix, known, n=3, cutoff=0.3) or known[:3]
                raise ValueError(
                    f"lr_factors names '{prefix}', which matches no parameter; did you mean {', '.join(near)}?"
                )
        factors = {}
        for name in names:
            prefixes = [prefix for prefix in self.lr_factors if _matches(prefix, name)]
            factors[name] = self.lr_factors[max(prefixes, key=len)] if prefixes else 1.0
        return factors

    def _free(self) -> None:
        """Let the weights train that a prefix names inside a part with an adapter, beside the adapter itself.

        A prefix that names the whole part sets the rate of its adapter and frees nothing.
        """
        adapted = [
            name for name, part in self.named_modules() if isinstance(part, Part) and part.peft_adapter
        ]
        for prefix, factor in self.lr_factors.items():
            if factor and any(prefix.startswith(f"{name}.") for name in adapted):
                for name, parameter in self.named_parameters():
                    if _matches(prefix, name):
                        parameter.requires_grad_(True)

    def _check_trainable(self) -> None:
        """Refuse to train what cannot be trained, such as an encoder whose features are cached.

        Raises:
            ValueError: when a prefix of `lr_factors` with a factor above 0 matches frozen parameters only.
        """
        for prefix, factor in self.lr_factors.items():
            matched = [value for name, value in self.named_parameters() if _matches(prefix, name)]
            if factor and not any(value.requires_grad for value in matched):
                raise ValueError(
                    f"lr_factors gives '{prefix}' the factor {factor}, but all of it is frozen: cached features do "
                    "not change with their encoder. Leave the prefix out, or take the encoder itself"
                )

    def _groups(self) -> list[dict[str, Any]]:
        groups: dict[tuple[float, float, str], list[nn.Parameter]] = {}
        factors = self._factors()
        for wrapped_name, parameter in self.named_parameters():
            name = parallel.plain_name(wrapped_name)
            if parameter.requires_grad:
                is_matrix = parameter.ndim > 1 or name in self._matrices
                decay = self.optim.weight_decay if is_matrix else 0.0
                spread = str(
                    parallel.mesh_of(parameter)
                )  # one step cannot take whole and spread tensors together
                groups.setdefault((factors[name], decay, spread), []).append(parameter)
        if not groups:
            raise ValueError(NOTHING_TO_TRAIN)
        return [
            {"params": parameters, "lr": self.optim.lr * factor, "weight_decay": decay}
            for (factor, decay, _), parameters in sorted(groups.items(), reverse=True)
        ]


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _matches(prefix: str, name: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")

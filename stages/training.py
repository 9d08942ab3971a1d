"""TrainingCLI: Lightning's command line as the training stages use it, and the life of a run directory."""

import importlib
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import HalfPrecision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities import rank_zero_only

from callbacks.checkpoint_file import candidates
from callbacks.checkpoints import Best, Checkpoints
from callbacks.finite import FiniteSteps
from callbacks.float32_products import Float32Products
from callbacks.origins import Origins
from callbacks.parts import WriteParts
from callbacks.preemption import NoSignals, Preemption
from callbacks.progress import StepBar
from callbacks.resuming import Resuming
from callbacks.seeds import StepSeeds
from callbacks.signals import STOPPED
from callbacks.summary import Summary
from callbacks.watchdog import Watchdog
from datamodules.samples import SampleDataModule
from modules import parts
from stages.cli import refusals
from stages.planning import plan, report
from stages.planning.hub import offline_unless_it_answers
from stages.planning.layout import Layout
from stages.precision import HalfWeights

CACHE = ("data.cache", "data.cache.folder", "data.cache.max_bytes", "data.cache.timeout_s")
SAVING = (
    "save_every_steps",
    "save_every_minutes",
    "keep_last",
    "keep_best",
    "keep_best.score",
    "keep_best.mode",
)
FREE = (
    "config",
    "ckpt_path",
    "run_dir",
    "data.num_workers",
    *CACHE,
    *SAVING,
    "stall_timeout_s",
    "max_skipped_steps",
)
"""What may differ between a run and the command that goes on with it: where and how fast, not what."""
FIXED_OF_TRAINER = ("max_steps", "accumulate_grad_batches", "gradient_clip_val", "precision")
"""Of the trainer's settings, those that change what is learned; the rest may differ on another machine."""
NOTHING = nullcontext()
LOST_RANK = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection refused",
    "NCCL communicator was aborted",
    "remote process exited or there was a network error",
)
"""What gloo and NCCL say when a rank at the other end is gone."""


class NoProfiler(PassThroughProfiler):
    """Measures nothing, at no cost: Lightning's own makes and leaves a context for every callback at every hook."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return NOTHING


class RunTrainer(Trainer):
    """Lightning's trainer, with one subcommand more."""

    def plan(self, mfu: float = 0.4, peak_tflops: float = 989.0) -> None:
        """Say what the run will need and do: parameters, memory, work and hours, without running it.

        Args:
            mfu: share of the GPU's peak that the run is thought to reach.
            peak_tflops: of one GPU, 10^12 operations a second; 989 is an H100's in bf16.
        """


class TrainingCLI(LightningCLI):
    """A stage, its data, and one run directory; `fit` goes on where an earlier `fit` of the same config stopped."""

    @classmethod
    def of(cls, class_path: str, args: list[str] | None = None) -> "TrainingCLI":
        """Build and run the command line of a stage given by import path."""
        module_name, _, name = class_path.rpartition(".")
        return cls(
            getattr(importlib.import_module(module_name), name),
            SampleDataModule,
            trainer_class=RunTrainer,
            args=args,
            auto_configure_optimizers=False,
            save_config_callback=None,
            load_from_checkpoint_support=False,
            seed_everything_default=0,
            trainer_defaults={
                "max_epochs": -1,
                "use_distributed_sampler": False,
                "check_val_every_n_epoch": None,
                "log_every_n_steps": 10,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
                "enable_checkpointing": False,
            },
        )

    # ---- the arguments

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skipped = {
            "model",
            "train_dataloaders",
            "val_dataloaders",
            "dataloaders",
            "datamodule",
            "weights_only",
        }
        return {"fit": skipped, "validate": skipped, "plan": skipped}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run_dir", type=str, required=True, help="Folder that this run leaves.")
        add = parser.add_argument
        add("--save_every_steps", type=int, default=500, help="Steps between two checkpoints.")
        add("--save_every_minutes", type=float | None, default=None, help="Minutes between two, besides.")
        add("--keep_last", type=int, default=2, help="How many of the newest checkpoints are kept.")
        add("--keep_best", type=Best | None, default=None, help="Which is kept besides: lowest val/loss.")
        add("--stall_timeout_s", type=float, default=600.0, help="Seconds without a batch that end the run.")
        add(
            "--max_skipped_steps",
            type=int,
            default=10,
            help="Of a thousand steps, those that may not be finite.",
        )
        for name in ("input_configs", "require"):
            parser.link_arguments(f"model.{name}", f"data.{name}", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would put the checkpoint's hyper-parameters over what YAML and command line say."""

    # ---- the run directory

    @property
    def run_dir(self) -> Path:
        return Path(self._get(self.config, "run_dir"))

    def before_instantiate_classes(self) -> None:
        """Refuse what cannot work, before anything is built.

        Raises:
            ValueError: when steps are not stated, or the run directory belongs to another config.
        """
        trainer = self._get(self.config, "trainer")
        if trainer.max_steps is None or trainer.max_steps < 1:
            raise ValueError(
                f"trainer.max_steps is {trainer.max_steps}: state how many steps to train, the schedule needs it"
            )
        if trainer.val_check_interval is None:
            trainer.val_check_interval = trainer.max_steps
        if self.subcommand == "fit":
            self._check_run_dir()

    def _check_run_dir(self) -> None:
        asked = self._plain_config()
        first = self.run_dir / "config.yaml"
        if first.is_file():
            found = yaml.safe_load(first.read_text(encoding="utf-8"))
            differences = _differences(_identity(found), _identity(asked))
            if differences:
                raise ValueError(
                    f"{self.run_dir} belongs to a run with another config ({'; '.join(differences[:5])}): "
                    "choose another --run_dir, or remove the folder to start anew"
                )
        elif self.run_dir.is_dir() and not _is_left_over(self.run_dir):
            raise ValueError(
                f"{self.run_dir} is not empty and holds no run (no config.yaml): choose another --run_dir"
            )
        self._asked = asked

    def _plain_config(self) -> dict[str, Any]:
        dumped = self._parser(self.subcommand).dump(
            self._get_section(), skip_none=False, skip_link_targets=True
        )
        return yaml.safe_load(dumped)

    def _get_section(self) -> Any:
        return self.config[self.subcommand]

    def _begin(self) -> None:
        """Take the run directory, but only now: a refused command must not keep the mended one out."""
        refusals.pass_on()
        self._write_config()

    @rank_zero_only
    def _write_config(self) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        names = ["config.yaml", *(f"config.{n}.yaml" for n in range(1, 10000))]
        path = next(self.run_dir / name for name in names if not (self.run_dir / name).exists())
        path.write_text(yaml.safe_dump(self._asked, sort_keys=False, allow_unicode=True), encoding="utf-8")

    # ---- building and running

    def instantiate_classes(self) -> None:
        """Build everything; for a plan, the stage on the meta device and no trainer, whose GPUs may not be here."""
        if self.subcommand != "plan":
            super().instantiate_classes()
            return
        if said := offline_unless_it_answers(self._plain_config()["model"]):
            print(said)
        with torch.device("meta"):
            built = self.parser.instantiate_classes(self.config)
        self.model, self.datamodule = self._get(built, "model"), self._get(built, "data")

    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand == "plan":
            self.plan()
        else:
            super()._run_subcommand(subcommand)

    def plan(self) -> None:
        """Say what the run will need and do."""
        asked = self.config["plan"]
        speed = plan.Speed(asked["mfu"], asked["peak_tflops"])
        layout = Layout.of(asked["trainer"])
        batch = self.datamodule.example(layout.shares)
        warned = plan.check(self.model, self.datamodule, layout)
        found = plan.plan(self.model, batch, self.datamodule.batch_size, layout, warned)
        report.report(found, speed)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        if config.get("logger") is None:
            config["logger"] = TensorBoardLogger(self.run_dir, name="logs", version="")
        config["profiler"] = config.get("profiler") or NoProfiler()
        checkpoints = Checkpoints(
            self.run_dir / "checkpoints",
            every_n_steps=self._setting("save_every_steps"),
            every_minutes=self._setting("save_every_minutes"),
            keep=self._setting("keep_last"),
            best=self._get(self.config_init, "keep_best") or Best(),
        )
        ours = [
            Watchdog(self._setting("stall_timeout_s")),
            StepSeeds(self._setting("seed_everything")),
            FiniteSteps(self._setting("max_skipped_steps"), self.run_dir / "logs" / "restored.txt"),
            Origins(),
            WriteParts(self.run_dir / "parts"),
            StepBar(),
            Preemption(checkpoints),
            checkpoints,
            Summary(self.run_dir),
            Float32Products(),
        ]
        ours.append(LambdaCallback(on_train_start=lambda *_: self._begin()))
        if config.get("enable_progress_bar") is False:
            ours = [callback for callback in ours if not isinstance(callback, StepBar)]
        config["default_root_dir"] = str(self.run_dir)
        config["plugins"] = [*_listed(config.get("plugins")), checkpoints.in_memory]
        trainer = super()._instantiate_trainer(config, callbacks + ours)
        if isinstance(trainer.precision_plugin, HalfPrecision):
            kind = trainer.precision_plugin.precision
            trainer.strategy.precision_plugin = HalfWeights(kind, trainer.strategy.root_device.type)
        trainer._signal_connector = NoSignals(trainer)
        trainer._checkpoint_connector = Resuming(trainer, checkpoints.folder)
        # A collective and a wait every step, for a flag that only Lightning's handlers would set.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        return trainer

    def _setting(self, name: str) -> Any:
        return self._get(self.config, name)

    def fit(self, model: Any, **kwargs: Any) -> None:
        """Fit from the start, or from the newest whole checkpoint of this run directory; nothing when it is finished.

        Raises:
            SystemExit: 75 when the run stopped and the same command goes on, such as when another rank was lost.
        """
        if (self.run_dir / "metrics.json").is_file():
            print(f"{self.run_dir} is finished: nothing to do (remove the folder to start anew)")
            return
        try:
            self.trainer.fit(model, weights_only=True, **kwargs)
        except (torch.distributed.DistError, RuntimeError) as error:
            if self.trainer.world_size == 1 or not _is_loss_of_a_rank(error):
                raise
            print(f"\nanother rank is lost: run the same command again to go on ({error})", file=sys.stderr)
            raise SystemExit(STOPPED) from error

    def validate(self, model: Any, **kwargs: Any) -> None:
        """Validate a checkpoint, or what this run directory holds: a finished run's parts, else its newest checkpoint.

        Raises:
            ValueError: when the run has neither, or what it hands over is not all that is validated.
        """
        checkpoint = kwargs.pop("ckpt_path", None)
        if checkpoint is None and not self._take_parts(model):
            checkpoint = next(iter(candidates(self.run_dir / "checkpoints")), None)
            if checkpoint is None:
                raise ValueError(
                    f"{self.run_dir} holds nothing to validate: run fit first, or name a --ckpt_path"
                )
        print(f"validating {checkpoint or self.run_dir / 'parts'}")
        self.trainer.validate(model, ckpt_path=checkpoint, weights_only=True, **kwargs)

    def _take_parts(self, model: Any) -> bool:
        """Give the model the weights of a finished run's parts; false where the run is not finished."""
        if not (self.run_dir / "metrics.json").is_file():
            return False
        exports = model.exports()
        handed_over = {id(parameter) for part in exports.values() for parameter in part.parameters()}
        if rest := [name for name, value in model.named_parameters() if id(value) not in handed_over]:
            raise ValueError(
                f"{self.run_dir} is finished and has handed over its parts, and {rest[0]} is in none of them: name a "
                "--ckpt_path, such as --save_every_steps leaves"
            )
        for name, part in exports.items():
            part.load_state_dict(parts.load(str(self.run_dir / "parts" / name)).state_dict())
        return True


class ParsedOnly(TrainingCLI):
    """The same command line, parsed and checked, with nothing built and nothing run."""

    def before_instantiate_classes(self) -> None: ...

    def instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...


def _is_loss_of_a_rank(error: Exception) -> bool:
    """Tell an error of the connection to another rank, which is no fault of this one."""
    if isinstance(error, (torch.distributed.DistNetworkError, torch.distributed.DistStoreError)):
        return True
    return any(sign in str(error) for sign in LOST_RANK)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _is_left_over(folder: Path) -> bool:
    """Say whether a folder holds no more than a run leaves that ended before its first step."""
    others = [path for path in folder.iterdir() if path.name not in ("logs", "checkpoints")]
    return not others and not any((folder / "checkpoints").glob("*.ckpt"))


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    """Return what makes a run this run, flattened to dotted keys."""
    flat = _flatten(config)
    trainer = {f"trainer.{name}" for name in FIXED_OF_TRAINER}
    return {
        key: value
        for key, value in flat.items()
        if key.partition(".")[0] not in FREE
        and key not in FREE
        and (not key.startswith("trainer.") or key in trainer)
    }


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {
            k: v
            for name, item in value.items()
            for k, v in _flatten(item, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    return {prefix: value}


def _differences(found: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    keys = sorted(key for key in found.keys() | asked.keys() if found.get(key) != asked.get(key))
    return [f"{key}: {found.get(key)!r} there, {asked.get(key)!r} asked" for key in keys]

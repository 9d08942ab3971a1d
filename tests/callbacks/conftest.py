"""A model of one layer and batches of numbers, for callbacks to watch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader

from callbacks.checkpoints import Checkpoints
from callbacks.preemption import NoSignals
from callbacks.resuming import Resuming
from datamodules.batch import Batch


class Line(LightningModule):
    """A layer that learns to return zero; its loss is NaN in the steps that `nan_at` names, counted from 1.

    `after` is called with the step and the module's weights behind each step.
    """

    def __init__(self, nan_at: tuple[int, ...] = (), fused: bool = False) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.nan_at, self.fused = nan_at, fused
        self.weights: dict[int, torch.Tensor] = {}
        self.scores = [3.0, 1.0, 2.0, 5.0]

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.trainer.datamodule.cursor = batch.cursor
        loss = self.layer(batch.inputs["x"]["x"]).square().mean()
        return loss * float("nan") if self.trainer.global_step + 1 in self.nan_at else loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.weights[self.trainer.global_step] = self.layer.weight.detach().clone()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/loss", self.scores.pop(0), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1, fused=self.fused)


class Numbers(LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.cursor = 0

    def train_dataloader(self) -> DataLoader:
        def batches():
            for position in range(self.cursor + 1, 1000):
                x = torch.full((1, 2), float(position % 7))
                yield Batch(
                    {"x": {"x": x}}, {"x": torch.zeros(1, dtype=torch.long)}, [f"key{position}"], position
                )

        return DataLoader(Stream(batches), batch_size=None)

    def state_dict(self) -> dict[str, int]:
        return {"cursor": self.cursor}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.cursor = state_dict["cursor"]

    def val_dataloader(self) -> DataLoader:
        return DataLoader([0], batch_size=None)


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, make: Callable) -> None:
        self.make = make

    def __iter__(self):
        return iter(self.make())


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., Trainer]:
    """Fit a `Line` with callbacks in `tmp_path`, as the training stages do, and return the trainer."""

    def run(
        module: Line, *callbacks: Any, steps: int = 8, ckpt_path: Any = None, **arguments: Any
    ) -> Trainer:
        checkpoints = [callback for callback in callbacks if isinstance(callback, Checkpoints)]
        trainer = Trainer(
            max_steps=steps,
            accelerator="cpu",
            callbacks=list(callbacks),
            plugins=[checkpoint.in_memory for checkpoint in checkpoints],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            check_val_every_n_epoch=None,
            default_root_dir=tmp_path,
            **{"limit_val_batches": 0, **arguments},
        )
        trainer._signal_connector = NoSignals(trainer)
        if checkpoints:
            trainer._checkpoint_connector = Resuming(trainer, checkpoints[0].folder)
        trainer.fit(module, datamodule=Numbers(), ckpt_path=ckpt_path)
        return trainer

    return run


@pytest.fixture
def line() -> type[Line]:
    return Line

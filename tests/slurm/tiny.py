"""Tiny: a stage that trains in seconds and writes down every batch, to be disturbed."""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datamodules.batch import Batch
from modules.parts import Part
from stages.optim import Optim
from stages.stage import Stage

CLASSES = [str(number) for number in range(10)]


class Net(Part):
    """A class to itself, through dropout."""

    def __init__(self, dim: int = 16, dropout: float = 0.3) -> None:
        super().__init__()
        self.arguments = {"dim": dim, "dropout": dropout}
        self.embedding, self.dropout = nn.Embedding(len(CLASSES), dim), nn.Dropout(dropout)
        self.head = nn.Linear(dim, len(CLASSES))

    def init_args(self) -> dict[str, Any]:
        return self.arguments

    def forward(self, label: Tensor) -> Tensor:
        return self.head(self.dropout(self.embedding(label)))


class Tiny(Stage):
    """Each line of `<record>.<rank>` is [start of the job, cursor, keys, loss] of a batch.

    Args:
        record: where.
        step_s: how long a step takes at least.
        dropout: of the network.
        ballast_mb: what its checkpoints hold besides, so that writing one takes a while.
        fail_at: position in the data at which the last rank fails by an error of its own.
    """

    def __init__(
        self,
        record: str,
        step_s: float = 0.0,
        dropout: float = 0.3,
        ballast_mb: int = 0,
        fail_at: int | None = None,
        optim: Optim | None = None,
    ) -> None:
        super().__init__(optim)
        self.record, self.step_s, self.fail_at = record, step_s, fail_at
        self.net = Net(dropout=dropout)
        self.register_buffer("ballast", torch.zeros(ballast_mb << 18))

    @property
    def input_configs(self) -> dict[str, dict[str, Any]]:
        return {
            "label": {
                "class_path": "datamodules.modalities.label.Label",
                "init_args": {"classes": CLASSES},
            }
        }

    def exports(self) -> dict[str, Part]:
        return {"net": self.net}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        label = batch.inputs["label"]["label"]
        loss = cross_entropy(self.net(label), label)
        if self.training:
            restart = int(os.environ.get("SLURM_RESTART_COUNT", 0))
            with open(f"{self.record}.{self.global_rank}", "a") as file:
                file.write(json.dumps([restart, batch.cursor, batch.keys, float(loss.detach())]) + "\n")
            time.sleep(self.step_s)
            if batch.cursor == self.fail_at and self.global_rank == self.trainer.world_size - 1:
                raise RuntimeError("an error of its own")
        return {"class": loss}


def make_shards(folder: Path) -> None:
    """Write a small set for it to learn."""
    from datamodules.shards.writer import write_shards

    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(len(CLASSES), (101,), generator=generator).tolist()
    write_shards(
        ({"__key__": f"{n:03}", "cls": str(label).encode()} for n, label in enumerate(labels)), folder
    )


if __name__ == "__main__":
    from stages.cli import run

    run("tiny.Tiny")

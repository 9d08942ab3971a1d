"""StepSeeds: what chance does in a step depends on the seed, the position in the data and the rank alone."""

import hashlib
import random
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from modules.seeding import seed_torch


class StepSeeds(Callback):
    """Seed Python, NumPy and PyTorch before each batch, so that a resumed run drops out what the unbroken one does.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Ranks that share a batch and split its tensors draw alike; None where nothing is distributed.
        share = (trainer.distributed_sampler_kwargs or {"rank": 0})["rank"]
        text = f"{self.seed} {batch.cursor} {share}".encode()
        number = int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big")
        random.seed(number)
        np.random.seed(number)
        seed_torch(number, pl_module.device)

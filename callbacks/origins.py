"""Origins: what of a stage starts at random, said before the first step, so that nothing is random in silence."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from modules.origin import random_parts


class Origins(Callback):
    """Print which modules start at random, and how large they are; nothing when a run goes on."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step:
            return
        found = random_parts(pl_module)
        listed = ", ".join(f"{name} ({size:,} parameters)" for name, size in found.items())
        rank_zero_info(f"starts at random: {listed or 'nothing'}")

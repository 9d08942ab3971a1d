"""Origins: what of a stage starts at random, said before the first step, so that nothing is random in silence."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from modules.origin import random_parts


class Origins(Callback):
    """Print which modules start at random, and how large they are; nothing when a run goes on."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Count before a strategy flattens what it counts."""
        self.found = random_parts(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step:
            return
        listed = ", ".join(f"{name} ({size:,} parameters)" for name, size in self.found.items())
        rank_zero_info(f"starts at random: {listed or 'nothing'}")

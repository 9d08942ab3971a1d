"""Origins: what of a stage starts at random, said before the first step, so that nothing is random in silence."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from modules.origin import listed, random_parameters


class Origins(Callback):
    """Print which modules start at random, and how large they are; nothing when a run goes on."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Count before a strategy flattens what it counts."""
        self.found = listed(random_parameters(pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step:
            return
        rank_zero_info(f"starts at random: {self.found or 'nothing'}")

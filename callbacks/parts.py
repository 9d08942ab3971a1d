"""WriteParts: the cards of a stage's parts in every checkpoint, and the parts themselves at its end."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from modules import parts
from modules.parallel import gathered
from modules.part import class_of


class WriteParts(Callback):
    """Hand over what the stage exports.

    Args:
        folder: `<folder>/<name>/` is written for every export once training has reached its last step.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Describe what will be handed over while it is whole, and refuse what could not be."""
        if stage != "fit":
            return
        prefixes = {id(module): f"{name}." for name, module in pl_module.named_modules()}
        self.described = {
            name: {"card": parts.describe(part), "assets": part.assets(), "prefix": prefixes[id(part)]}
            for name, part in pl_module.exports().items()
        }

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["parts"] = self.described

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step < trainer.max_steps:
            return
        exports = pl_module.exports()
        about = {"stage": class_of(pl_module).__name__, "steps": trainer.global_step}
        about["cursor"] = trainer.datamodule.cursor
        more = {name: {**about, "trained": _trained(part)} for name, part in exports.items()}
        with gathered(trainer.strategy.model):
            parts.save_all(exports, self.folder, more)


def _trained(part: parts.Part) -> list[str]:
    return sorted({key.split(".")[0] for key, value in part.named_parameters() if value.requires_grad})

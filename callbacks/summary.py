"""Summary: a run's final figures, in `metrics.json`, which also says that the run is finished."""

import json
import os
import resource
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from modules.part import class_of


class Summary(Callback):
    """Write the last value of everything logged, the seconds it took and the memory it needed.

    Args:
        folder: the run directory.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.first_step = trainer.global_step  # a resumed run knows its step only now

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step < trainer.max_steps or not trainer.is_global_zero:
            return
        content = {
            "stage": class_of(pl_module).__name__.lower(),
            "steps": trainer.global_step,
            "steps_of_this_process": trainer.global_step - self.first_step,
            "seconds_of_this_process": round(time.monotonic() - self.started, 2),
            "parameters": sum(parameter.numel() for parameter in pl_module.parameters()),
            "trainable_parameters": sum(p.numel() for p in pl_module.parameters() if p.requires_grad),
            "peak_memory_bytes": _peak_memory_bytes(),
            "chance": pl_module.chance,
            **{name: float(value) for name, value in sorted(trainer.callback_metrics.items())},
            **pl_module.report,
        }
        temporary = self.folder / ".metrics.json"
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, self.folder / "metrics.json")


def _peak_memory_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

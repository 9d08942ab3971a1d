"""Transfer: encoders and a fusion to a supervised task: classes, tags of words, or numbers (putting to use)."""

from collections.abc import Callable
from typing import Any, Final

from lightning.pytorch import Callback
from torch import Tensor, nn
from torchmetrics import MeanMetric

from callbacks.score_table import ScoreTable
from datamodules.batch import Batch
from modules.collectives import global_mean
from modules.encoders.encoder import as_tower
from modules.fusion.fusion import FusionSource, as_fusion
from modules.metrics.scores import Scores
from modules.objectives.modality_masking import ModalityMasking
from modules.parts import Part
from modules.tasks.task import Judged, Task
from stages.optim import Optim
from stages.stage import Stage

TINY: Final = 1e-12
"""A batch in which nothing was asked has a sum of 0, and weighs nothing."""


class Transfer(Stage):
    """Answer for each sample from whatever modalities it has.

    Args:
        encoders: by modality: parts of the stage before, or any encoder.
        fusion: a class of modules/fusion without its `widths`, which are the encoders'; or the part of one.
        task: Classification, Tagging or Regression without its `dim`, which is the fusion's; or the part of one.
        masking: takes modalities away from samples while training.
        optim: optimiser and schedule.
        lr_factors: name prefix -> factor of the learning rate; 0 freezes.

    Raises:
        ValueError: when encoders, fusion and task do not fit each other.
    """

    def __init__(
        self,
        encoders: dict[str, Part],
        fusion: FusionSource,
        task: Part | Callable[[int], Task],
        masking: ModalityMasking | None = None,
        optim: Optim | None = None,
        lr_factors: dict[str, float] | None = None,
    ) -> None:
        super().__init__(optim, lr_factors)
        if not encoders:
            raise ValueError("transfer was given no encoder, expected one or more")
        self.encoders = nn.ModuleDict({name: as_tower(part, name) for name, part in encoders.items()})
        self.fusion = as_fusion(fusion, {name: encoder.dim for name, encoder in self.encoders.items()})
        self.task = _task(task, self.fusion.dim)
        self.task.check(dict(self.encoders.items()), self.fusion)
        self.masking = masking
        self.tally = self.task.tally()
        self.val_loss = MeanMetric()
        self.scores: Scores | None = None

    @property
    def input_configs(self) -> dict[str, dict[str, Any]]:
        return self.task.input_configs({name: each.input_config for name, each in self.encoders.items()})

    @property
    def require(self) -> list[str]:
        return [self.task.modality]

    @property
    def chance(self) -> dict[str, float]:
        return self.task.chance

    @property
    def report(self) -> dict[str, Any]:
        return {"per_class": self.scores.rows} if self.scores and self.scores.rows else {}

    def exports(self) -> dict[str, Part]:
        encoders = {f"encoders.{name}": encoder.handed_over() for name, encoder in self.encoders.items()}
        return {**encoders, "fusion": self.fusion, "task": self.task}

    def configure_callbacks(self) -> list[Callback]:
        return [ScoreTable(lambda: self.scores)]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        inputs, rows, truth = self.task.split(batch.inputs, batch.rows)
        if self.masking is not None:
            inputs, rows = self.masking(inputs, rows, len(batch))
        tokens = {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}
        judged = self.task(self.fusion(tokens, rows, len(batch)), truth)
        if not self.training:
            self._count(judged)
        return {self.task.name: global_mean(judged.total, judged.count)}

    # ---- validation: counts, so that neither batches nor ranks matter

    def on_validation_epoch_start(self) -> None:
        self.tally.reset()
        self.val_loss.reset()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self.losses(batch)  # which counts, and is what a sharded model is whole for

    def _count(self, judged: Judged) -> None:
        self.tally.update(*judged.answers)
        self.val_loss.update(judged.total / judged.count.clamp(min=TINY), judged.count)

    def on_validation_epoch_end(self) -> None:
        self.scores = self.tally.scores()
        loss = self.val_loss.compute()
        figures = {self.task.name: loss, "loss": loss, **self.scores.figures}
        self.log_dict({f"val/{name}": value for name, value in figures.items()})


def _task(given: Part | Callable[[int], Task], dim: int) -> Task:
    """Return the task that a config names, for fused tokens `dim` wide."""
    task = given if isinstance(given, Part) else given(dim)
    if not isinstance(task, Task):
        raise ValueError(
            f"a task was expected, found a {type(task).__name__}: name a class of modules/tasks, or the folder of a "
            "part that is called task"
        )
    if task.dim != dim:
        raise ValueError(
            f"the task takes fused tokens {task.dim} wide, the fusion gives {dim}: take both from one run, or name the "
            "task's class without `dim`, which then is the fusion's"
        )
    return task


if __name__ == "__main__":
    from stages.cli import run

    run("stages.transfer.Transfer")

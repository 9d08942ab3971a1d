"""Transfer: encoders and a fusion to a supervised task: classes, tags of words, or numbers (putting to use)."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from lightning.pytorch import Callback
from torch import Tensor, nn
from torchmetrics import MeanMetric

from callbacks.score_table import ScoreTable
from datamodules.batch import Batch
from modules.collectives import global_mean
from modules.encoders.encoder import as_encoder
from modules.fusion.fusion import Fusion
from modules.metrics.scores import Scores
from modules.objectives.modality_masking import ModalityMasking
from modules.parts import Part
from modules.tasks.task import Judged, Task
from stages.stage import Optim, Stage

Kind = TypeVar("Kind", bound=Part)
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
        fusion: Callable[[dict[str, int]], Fusion] | Part,
        task: Callable[[int], Task] | Part,
        masking: ModalityMasking | None = None,
        optim: Optim | None = None,
        lr_factors: dict[str, float] | None = None,
    ) -> None:
        super().__init__(optim, lr_factors)
        if not encoders:
            raise ValueError("transfer was given no encoder, expected one or more")
        self.encoders = nn.ModuleDict({name: as_encoder(part, name) for name, part in encoders.items()})
        widths = {name: encoder.dim for name, encoder in self.encoders.items()}
        self.fusion = _checked(fusion if isinstance(fusion, Part) else fusion(widths), Fusion)
        self._check_widths(widths)
        self.task = _checked(task if isinstance(task, Part) else task(self.fusion.dim), Task)
        if self.task.dim != self.fusion.dim:
            raise ValueError(
                f"the task takes tokens {self.task.dim} wide, the fusion gives {self.fusion.dim}: take the part of the "
                "fusion that it was trained with"
            )
        self.task.check(dict(self.encoders.items()), self.fusion)
        self.masking = masking
        self.tally = self.task.tally()
        self.val_loss = MeanMetric()
        self.scores: Scores | None = None

    def _check_widths(self, widths: dict[str, int]) -> None:
        wrong = [
            f"{name} {width} wide, built for {self.fusion.widths.get(name, 'none of it')}"
            for name, width in widths.items()
            if self.fusion.widths.get(name) != width
        ]
        if wrong:
            raise ValueError(
                f"{type(self.fusion).__name__} does not fit the encoders: {'; '.join(wrong)}. Take the encoders that "
                "it was trained with, or name its class instead of the part"
            )

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

    def judge(self, batch: Batch) -> Judged:
        """Answer a batch and compare with what is right."""
        inputs, rows, truth = self.task.split(batch.inputs, batch.rows)
        if self.masking is not None:
            inputs, rows = self.masking(inputs, rows, len(batch))
        tokens = {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}
        return self.task(self.fusion(tokens, rows, len(batch)), truth)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        judged = self.judge(batch)
        return {self.task.name: global_mean(judged.total, judged.count)}

    # ---- validation: counts, so that neither batches nor ranks matter

    def on_validation_epoch_start(self) -> None:
        self.tally.reset()
        self.val_loss.reset()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        judged = self.judge(batch)
        self.tally.update(*judged.answers)
        self.val_loss.update(judged.total / judged.count.clamp(min=TINY), judged.count)

    def on_validation_epoch_end(self) -> None:
        self.scores = self.tally.scores()
        figures = {self.task.name: self.val_loss.compute(), **self.scores.figures}
        self.log_dict({f"val/{name}": value for name, value in figures.items()})


def _checked(part: Any, kind: type[Kind]) -> Kind:
    if not isinstance(part, kind):
        name = kind.__name__.lower()
        raise ValueError(
            f"{name} was given a {type(part).__name__}, expected a {name}: name the folder of one, or a class"
        )
    return part


if __name__ == "__main__":
    from stages.cli import run

    run("stages.transfer.Transfer")

"""Pretrain: one encoder by itself, by masked, causal or supervised objectives (grammar)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from datamodules.batch import Batch
from modules.encoders.encoder import Encoder, as_encoder
from modules.objectives.pretraining import PretrainingObjective
from modules.parts import Part
from stages.optim import Optim
from stages.stage import Stage


class Pretrain(Stage):
    """Train the encoder of one modality.

    Args:
        modality: its name: text, image, audio, or a user's own.
        encoder: an encoder to build, or a part to go on with.
        objective: what it is asked for; it is given the encoder.
        optim: optimiser and schedule.
        lr_factors: name prefix -> factor of the learning rate; 0 freezes.
    """

    def __init__(
        self,
        modality: str,
        encoder: Part,
        objective: Callable[[Encoder], PretrainingObjective],
        optim: Optim | None = None,
        lr_factors: dict[str, float] | None = None,
    ) -> None:
        super().__init__(optim, lr_factors)
        self.modality = modality
        self.encoders = nn.ModuleDict({modality: as_encoder(encoder, modality)})
        self.objective = objective(self.encoders[modality])

    @property
    def input_configs(self) -> dict[str, dict[str, Any]]:
        return {self.modality: self.encoders[self.modality].input_config, **self.objective.input_configs}

    @property
    def require(self) -> list[str]:
        return list(self.input_configs)

    @property
    def compares_samples(self) -> bool:
        return self.objective.compares_samples

    def exports(self) -> dict[str, Part]:
        return {f"encoders.{self.modality}": self.encoders[self.modality]}

    @property
    def chance(self) -> dict[str, float]:
        """What a guess would score, by score."""
        return {} if self.objective.chance is None else {"accuracy": self.objective.chance}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        inputs = dict(batch.inputs[self.modality])
        for name in self.objective.input_configs:
            inputs |= batch.inputs[name]
        seen, target = self.objective.corrupt(inputs)
        tokens = self.encoders[self.modality](seen)
        losses, scores = self.objective(tokens, target)
        self._log("train" if self.training else "val", scores, batch, prog_bar=tuple(scores))
        return losses


if __name__ == "__main__":
    from stages.cli import run

    run("stages.pretrain.Pretrain")

"""Align: the encoders of any number of modalities into one space, by contrast and what goes with it (logic)."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize

from datamodules.batch import Batch
from modules.encoders.encoder import as_encoder
from modules.objectives.aligned import Aligned, AlignmentObjective
from modules.objectives.modality_masking import ModalityMasking
from modules.parts import Part
from modules.projections import Projection
from stages.stage import Optim, Stage


class Align(Stage):
    """Bring the samples' modalities together and everything else apart.

    Args:
        encoders: by modality: parts of the stage before, or any encoder.
        dim: width of the shared space.
        objective: InfoNCE, SigLIP or another AlignmentObjective; several at once are Weighted.
        masking: takes modalities away from samples while training.
        optim: optimiser and schedule.
        lr_factors: name prefix -> factor of the learning rate; 0 freezes.

    Raises:
        ValueError: when there are fewer than two modalities, or the objective was built for another model.
    """

    def __init__(
        self,
        encoders: dict[str, Part],
        dim: int,
        objective: AlignmentObjective,
        masking: ModalityMasking | None = None,
        optim: Optim | None = None,
        lr_factors: dict[str, float] | None = None,
    ) -> None:
        super().__init__(optim, lr_factors)
        if len(encoders) < 2:
            raise ValueError(
                f"align brings modalities together and was given {len(encoders)}: expected two encoders or more"
            )
        self.encoders = nn.ModuleDict({name: as_encoder(part, name) for name, part in encoders.items()})
        self.projections = nn.ModuleDict(
            {name: Projection(part.dim, dim) for name, part in self.encoders.items()}
        )
        objective.configure({name: encoder.dim for name, encoder in self.encoders.items()}, dim)
        self.objective = objective
        self.masking = masking

    @property
    def input_configs(self) -> dict[str, dict[str, Any]]:
        return {name: encoder.input_config for name, encoder in self.encoders.items()}

    def exports(self) -> dict[str, Part]:
        encoders = {f"encoders.{name}": encoder.handed_over() for name, encoder in self.encoders.items()}
        projections = {f"projections.{name}": projection for name, projection in self.projections.items()}
        return encoders | projections | self.objective.exports()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        inputs, rows = batch.inputs, batch.rows
        if self.masking is not None:
            inputs, rows = self.masking(inputs, rows, len(batch))
        tokens = {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}
        embeddings = {name: normalize(self.projections[name](tokens[name]), dim=-1) for name in tokens}
        return self.objective(Aligned(embeddings, rows, len(batch), tokens))


if __name__ == "__main__":
    from stages.cli import run

    run("stages.align.Align")

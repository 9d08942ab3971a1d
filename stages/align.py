"""Align: the encoders of any number of modalities into one space, by contrast and what goes with it (logic)."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize

from datamodules.batch import Batch
from datamodules.samples import SampleDataModule
from modules.chunks import encode_in_chunks
from modules.encoders.encoder import as_tower
from modules.objectives.aligned import Aligned, AlignmentObjective
from modules.objectives.modality_masking import ModalityMasking
from modules.parts import Part, check_siblings
from modules.projections import Projection, as_projection
from stages.optim import Optim
from stages.stage import Stage


class Align(Stage):
    """Bring the samples' modalities together and everything else apart.

    Args:
        encoders: by modality: parts of the stage before, or any encoder.
        dim: width of the shared space.
        objective: InfoNCE, SigLIP or another AlignmentObjective; several at once are Weighted.
        masking: takes modalities away from samples while training.
        projections: by modality: parts of an earlier alignment that are gone on with; new ones where not named.
        chunks: pieces that a batch is encoded in, each computed twice so that only one is in memory; the objective
            sees the whole batch, which `trainer.accumulate_grad_batches` would not give it.
        optim: optimiser and schedule.
        lr_factors: name prefix -> factor of the learning rate; 0 freezes.

    Raises:
        ValueError: when there are fewer than two modalities, `chunks` is not positive, a projection does not fit its
            encoder, or the objective was built for another model.
        PartError: when a projection is of another run than its encoder.
    """

    def __init__(
        self,
        encoders: dict[str, Part],
        dim: int,
        objective: AlignmentObjective,
        masking: ModalityMasking | None = None,
        projections: dict[str, Part] | None = None,
        chunks: int = 1,
        optim: Optim | None = None,
        lr_factors: dict[str, float] | None = None,
    ) -> None:
        super().__init__(optim, lr_factors)
        if len(encoders) < 2:
            raise ValueError(
                f"align brings modalities together and was given {len(encoders)}: expected two encoders or more"
            )
        self.encoders = nn.ModuleDict({name: as_tower(part, name) for name, part in encoders.items()})
        given = projections or {}
        if unknown := set(given) - set(encoders):
            raise ValueError(
                f"projections names {', '.join(sorted(unknown))}, but there are encoders for {', '.join(encoders)}"
            )
        self.projections = nn.ModuleDict(
            {
                name: as_projection(given[name], name, in_dim=part.dim, out_dim=dim)
                if name in given
                else Projection(part.dim, dim)
                for name, part in self.encoders.items()
            }
        )
        objective.configure({name: encoder.dim for name, encoder in self.encoders.items()}, dim)
        objective.check_inputs(self.input_configs)
        for name, projection in given.items():
            own = {f"encoders.{name}": self.encoders[name].handed_over()}
            check_siblings({f"projections.{name}": projection}, own)
        self.objective = objective
        self.masking = masking
        if chunks < 1:
            raise ValueError(f"chunks is {chunks}, expected 1 or more")
        self.chunks = chunks

    @property
    def compares_samples(self) -> bool:
        return self.objective.compares_samples

    @property
    def input_configs(self) -> dict[str, dict[str, Any]]:
        return {name: encoder.input_config for name, encoder in self.encoders.items()}

    def exports(self) -> dict[str, Part]:
        encoders = {f"encoders.{name}": encoder.handed_over() for name, encoder in self.encoders.items()}
        projections = {f"projections.{name}": projection for name, projection in self.projections.items()}
        return encoders | projections | self.objective.exports()

    def on_fit_start(self) -> None:
        """Refuse data that have nothing to align, before the first step.

        Raises:
            ValueError: as `check_data` does, or Stage.
        """
        super().on_fit_start()
        self.check_data(self.trainer.datamodule)

    def check_data(self, data: SampleDataModule) -> None:
        """Refuse data that have nothing to align.

        Raises:
            ValueError: when a modality never comes together with another in the training samples.
        """
        together = data.train.together()
        for name in self.encoders:
            if not any(count for pair, count in together.items() if name in pair):
                raise ValueError(
                    f"no training sample has {name} together with another of {', '.join(self.encoders)}: nothing "
                    f"would be learnt of it; add shards whose samples have both, or leave the {name} encoder out"
                )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        inputs, rows = batch.inputs, batch.rows
        if self.masking is not None:
            inputs, rows = self.masking(inputs, rows, len(batch))
        tokens = {
            name: encode_in_chunks(encoder, inputs[name], self.chunks)
            for name, encoder in self.encoders.items()
        }
        embeddings = {name: normalize(self.projections[name](tokens[name]), dim=-1) for name in tokens}
        return self.objective(Aligned(embeddings, rows, len(batch), tokens, inputs))


if __name__ == "__main__":
    from stages.cli import run

    run("stages.align.Align")

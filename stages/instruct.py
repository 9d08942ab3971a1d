"""Instruct: a language model learns to answer about media that aligned encoders show it (rhetoric)."""

from typing import Any

from torch import Tensor, nn

from datamodules.batch import Batch
from modules.assistant import CONVERSATION, Assistant
from modules.collectives import global_mean
from modules.connector import ConnectorSource, as_connector
from modules.encoders.encoder import as_tower
from modules.language_model import LanguageModel
from modules.parts import Part, check_siblings
from modules.projections import Projector
from stages.optim import Optim
from stages.stage import Stage


class Instruct(Stage):
    """Train projectors, and as much of the rest as `lr_factors` leaves free, on answers alone.

    Args:
        language_model: a part of the stage before, or any causal model of transformers.
        encoders: by modality: aligned parts, or any encoder.
        group: neighbouring tokens of a modality that become one token of the language model; 1 where not named.
        projectors: by modality: PerceiverResampler, MediaAttention or Projector without its first two widths, or a part
            of an earlier instruction; a Projector with its `group` where not named.
        optim: optimiser and schedule.
        lr_factors: name prefix -> factor of the learning rate; 0 freezes.

    Raises:
        ValueError: when `group` or `projectors` names a modality without an encoder, both name one, or a projector
            does not fit.
        PartError: when a projector is of another run than its encoder or the language model.
    """

    def __init__(
        self,
        language_model: Part,
        encoders: dict[str, Part],
        group: dict[str, int] | None = None,
        projectors: dict[str, ConnectorSource] | None = None,
        optim: Optim | None = None,
        lr_factors: dict[str, float] | None = None,
    ) -> None:
        super().__init__(optim, lr_factors)
        group, given = group or {}, projectors or {}
        for argument, names in (("group", set(group)), ("projectors", set(given))):
            if unknown := names - set(encoders):
                raise ValueError(
                    f"{argument} names {', '.join(sorted(unknown))}, but there are encoders for {', '.join(encoders)}"
                )
        if twice := set(group) & set(given):
            raise ValueError(
                f"both group and projectors name {', '.join(sorted(twice))}: leave it out of group, which is for "
                "modalities with a new Projector"
            )
        if not isinstance(language_model, LanguageModel):
            raise ValueError(
                f"language_model was given a {type(language_model).__name__}, expected a LanguageModel"
            )
        towers = {name: as_tower(part, name) for name, part in encoders.items()}
        width = language_model.dim
        connectors = {
            name: as_connector(given[name], name, in_dim=tower.dim, out_dim=width)
            if name in given
            else Projector(tower.dim, width, group.get(name, 1))
            for name, tower in towers.items()
        }
        self.assistant = Assistant(language_model, towers, connectors)
        for name, connector in connectors.items():
            own = {"language_model": language_model, f"encoders.{name}": towers[name].handed_over()}
            check_siblings({f"projectors.{name}": connector}, own)

    @property
    def input_configs(self) -> dict[str, dict[str, Any]]:
        return self.assistant.input_configs

    @property
    def require(self) -> list[str]:
        return [CONVERSATION]

    def exports(self) -> dict[str, Part]:
        encoders = {
            f"encoders.{name}": encoder.handed_over() for name, encoder in self.assistant.encoders.items()
        }
        projectors = {f"projectors.{name}": part for name, part in self.assistant.projectors.items()}
        return {"language_model": self.assistant.language_model, **encoders, **projectors}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        logits, said = self.assistant(batch.inputs, batch.rows)
        count = max(1, len(said))
        accuracy = (logits.argmax(1) == said).sum() / count
        self._log(
            "train" if self.training else "val",
            {"token_accuracy": accuracy},
            batch,
            prog_bar=("token_accuracy",),
        )
        total = nn.functional.cross_entropy(logits.float(), said, reduction="sum")
        return {"answer": global_mean(total, len(said))}


if __name__ == "__main__":
    from stages.cli import run

    run("stages.instruct.Instruct")

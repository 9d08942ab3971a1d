"""Regression: a number for each sample, from whatever modalities it has."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from modules.fusion.fusion import Fused
from modules.tasks.task import Inputs, Judged, Task, Truth, without

if TYPE_CHECKING:
    from modules.metrics.scores import Tally


class Regression(Task):
    """Squared error of one linear map over the pooled fused tokens, in units of the target's spread.

    Args:
        dim: width of the fused tokens.
        mean: of the target, about; where the map begins.
        std: spread of the target, about: so that the loss is about 1 whatever the target's unit.
        field: of a `.json` member, where the number is; by default a `.num` member holds it.
        low: the smallest number that is meant; smaller ones are bad samples.
        high: the largest.

    Raises:
        ValueError: when `std` is not positive.
    """

    name = "regression"
    modality = "number"

    def __init__(
        self,
        dim: int,
        mean: float = 0.0,
        std: float = 1.0,
        field: str | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        super().__init__(dim)
        if not std > 0:
            raise ValueError(f"std is {std}: expected the target's spread, more than 0")
        self.mean, self.std = mean, std
        self.field, self.low, self.high = field, low, high
        self.linear = nn.Linear(dim, 1)

    def init_args(self) -> dict[str, Any]:
        about = {"field": self.field, "low": self.low, "high": self.high}
        return {"dim": self.dim, "mean": self.mean, "std": self.std, **about}

    def input_configs(self, encoders: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        number = {
            "class_path": "datamodules.modalities.number.Number",
            "init_args": {"field": self.field, "low": self.low, "high": self.high},
        }
        return {**{name: dict(config) for name, config in encoders.items()}, self.modality: number}

    def split(
        self, inputs: Mapping[str, Inputs], rows: Mapping[str, Tensor]
    ) -> tuple[dict[str, Inputs], dict[str, Tensor], Truth]:
        return without(self.modality, inputs, rows)

    def forward(self, fused: Fused, truth: Truth) -> Judged:
        """Judge all samples that have a number.

        Args:
            fused: of the whole batch.
            truth: `number` (rows,), float32.
        """
        scaled = self.linear(fused.tokens.pooled()).float().squeeze(1)[truth.rows]  # (rows,)
        number = truth.inputs["number"]
        total = nn.functional.mse_loss(scaled, (number - self.mean) / self.std, reduction="sum")
        said = scaled.detach() * self.std + self.mean
        return Judged(total, total.new_tensor(float(len(number))), (said, number))

    def tally(self) -> "Tally":
        from modules.metrics.numbers import NumberTally

        return NumberTally()

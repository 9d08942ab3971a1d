"""Number: a quantity to be predicted, such as a rating."""

import json
import math

import torch
from torch import Tensor

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.target import Target

MAX_NUMBER_BYTES = 100
MAX_JSON_BYTES = 1 << 24


class Number(Target):
    """Numbers, as `.num` members such as `-1.5`, or in a field of `.json` members. Inputs: `number` (rows,) float32.

    Args:
        field: of a JSON object, where the number is; None reads `.num` members.
        low: the smallest that is meant; None takes any.
        high: the largest.

    Raises:
        ValueError: when `low` is not below `high`.
    """

    def __init__(self, field: str | None = None, low: float | None = None, high: float | None = None) -> None:
        self.low, self.high = -math.inf if low is None else low, math.inf if high is None else high
        if not self.low < self.high:
            raise ValueError(f"number: low is {low} and high {high}, expected less and more")
        self.field = field
        self.members = ("num",) if field is None else ("json",)

    def decode(self, data: bytes, member: str) -> float:
        """Return the number.

        Raises:
            BadSample: when it is none, not finite, or not from `low` to `high`.
        """
        try:
            value = self._written(data)
        except (ValueError, OverflowError, RecursionError) as error:
            raise BadSample("not_a_number", str(error)[:200]) from error
        if not math.isfinite(value):
            raise BadSample("not_a_number", f"{value}")
        if not self.low <= value <= self.high:
            raise BadSample("number_out_of_range", f"{value}, expected {self.low} to {self.high}")
        return value

    def _written(self, data: bytes) -> float:
        limit = MAX_NUMBER_BYTES if self.field is None else MAX_JSON_BYTES
        if len(data) > limit:
            raise ValueError(f"{len(data)} bytes, at most {limit}")
        if self.field is None:
            return float(data.decode("utf-8-sig", "replace"))
        record = json.loads(data)
        value = record.get(self.field) if isinstance(record, dict) else None
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise ValueError(f"{self.field} is {str(value)[:80]!r}")
        return float(value)

    def collate(self, values: list[float]) -> dict[str, Tensor]:
        return {"number": torch.tensor(values, dtype=torch.float32)}

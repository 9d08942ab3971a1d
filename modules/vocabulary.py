"""Vocabulary: where text tokens, other modalities' units and the marks around each lie in one range of ids."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

TEXT = "text"


@dataclass(frozen=True)
class Span:
    """The ids of one modality: `count` from `first` on, and the marks that stand before and behind them."""

    first: int
    count: int
    begin: int
    end: int


class Vocabulary:
    """Text ids keep their place; behind them come, for each modality in alphabetical order, its marks and its units.

    Args:
        text_size: ids of text, 0 to below it.
        units: modality -> how many units it has.

    Attributes:
        spans: modality -> its ids; text has marks of its own, whatever its tokenizer adds.
        size: ids in all.

    Raises:
        ValueError: when a modality is called text, or has no unit.
    """

    def __init__(self, text_size: int, units: Mapping[str, int]) -> None:
        if TEXT in units or any(count < 1 for count in units.values()):
            raise ValueError(
                f"units are {dict(units)}: expected one unit or more for each modality beside text"
            )
        self.spans = {TEXT: Span(0, text_size, text_size, text_size + 1)}
        self.size = text_size + 2
        for name in sorted(units):
            self.spans[name] = Span(self.size + 2, units[name], self.size, self.size + 1)
            self.size += 2 + units[name]

    def segment(self, modality: str, numbers: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return ids and mask (rows, 2 + tokens): a modality's own numbers (rows, tokens) between its marks."""
        span = self.spans[modality]
        ids = torch.nn.functional.pad(numbers + span.first, (1, 1))
        ids[:, 0], ids[:, -1] = span.begin, span.end
        return ids, torch.nn.functional.pad(mask.bool(), (1, 1), value=True)

    def begin(self, modality: str, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return ids and mask (rows, 1) of the mark after which a modality is to follow."""
        ids = torch.full((rows, 1), self.spans[modality].begin, device=device)
        return ids, torch.ones_like(ids, dtype=torch.bool)

    def others(self, modality: str, *, with_end: bool) -> list[int]:
        """Return the ids that must not come inside a modality, but for the mark behind it `with_end`."""
        span = self.spans[modality]
        own = range(span.first, span.first + span.count)
        return [
            number
            for number in range(self.size)
            if number not in own and not (with_end and number == span.end)
        ]

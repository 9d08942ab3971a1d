"""Batch: samples as tensors, each modality holding only the samples that have it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

Inputs = dict[str, Tensor]


@dataclass
class Batch:
    """What a data module gives and a stage takes.

    Args:
        inputs: modality -> Inputs, whose first dimension is rows; zero rows where no sample has the modality.
        rows: modality -> (rows,), int64: which sample of the batch each row belongs to, ascending.
        keys: one for each sample.
        cursor: global position behind this batch, to go on from.
        skipped: reason -> what was left out of this batch for it, by key.
    """

    inputs: dict[str, Inputs]
    rows: dict[str, Tensor]
    keys: list[str]
    cursor: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Return the batch on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, from where it goes to a GPU without waiting."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        inputs = {
            name: {key: change(tensor) for key, tensor in values.items()}
            for name, values in self.inputs.items()
        }
        return replace(self, inputs=inputs, rows={name: change(rows) for name, rows in self.rows.items()})

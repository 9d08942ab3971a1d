"""Label: the name of a class to its index."""

from typing import Any

import torch
from torch import Tensor

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.target import Target


class Label(Target):
    """Class names, as `.cls` members, to indices. Inputs: `label` (rows,) int64.

    Args:
        classes: names, in the order of their indices.
    """

    members = ("cls",)

    def __init__(self, classes: list[str]) -> None:
        self.indices = {name: index for index, name in enumerate(classes)}

    def decode(self, data: bytes, member: str) -> int:
        """Return the index.

        Raises:
            BadSample: when the class is not one of `classes`.
        """
        name = data.decode("utf-8", "replace").strip()
        if name not in self.indices:
            raise BadSample("unknown_class", f"'{name[:80]}' is not one of {', '.join(self.indices)[:200]}")
        return self.indices[name]

    def collate(self, values: list[Any]) -> dict[str, Tensor]:
        return {"label": torch.tensor(values, dtype=torch.long)}

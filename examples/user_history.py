"""What a user took, as item numbers: two towers of one class make a recommender, for an item is a history of one."""

import numpy as np
import torch
from torch import nn

from datamodules.modalities.bad_sample import BadSample
from modules.encoders.encoder import Encoder
from modules.tokens import Tokens

MAX_BYTES = 1 << 20


class History:
    """Item numbers from 1 on, with spaces between, latest last. Inputs: `items` (rows, items) int32, 0 where padded."""

    def __init__(self, num_items: int, max_items: int = 50, member: str = "history") -> None:
        self.num_items, self.max_items, self.members = num_items, max_items, (member,)

    def decode(self, data: bytes, member: str) -> np.ndarray:
        if len(data) > MAX_BYTES:
            raise BadSample("history_too_large", f"{len(data)} bytes, at most {MAX_BYTES}")
        words = data.split()[-self.max_items :]
        if not words or not all(word.isdigit() and len(word) < 10 for word in words):
            raise BadSample("history_layout", f"{data[:40]!r}, expected item numbers, such as 17 4 230")
        items = np.array(list(map(int, words)), np.int32)
        if items.min() < 1 or items.max() > self.num_items:
            raise BadSample(
                "unknown_item", f"items {items.min()} to {items.max()}, expected 1 to {self.num_items}"
            )
        return items

    def augment(self, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        kept = value[rng.random(len(value)) < 0.8]  # no single item decides
        return kept if len(kept) else value

    def collate(self, values: list[np.ndarray]) -> dict[str, torch.Tensor]:
        items = torch.zeros(len(values), max(map(len, values), default=1), dtype=torch.int32)
        for row, value in zip(items, values, strict=True):
            row[: len(value)] = torch.from_numpy(value)
        return {"items": items}


class HistoryEncoder(Encoder):
    """A learned vector for each item of the catalogue; the projection behind it weighs those of a history.

    The user's tower is one with the member `history`, the item's tower another with the member `item`.
    """

    def __init__(self, num_items: int, dim: int = 64, max_items: int = 50, member: str = "history") -> None:
        super().__init__()
        self.dim = dim
        self.settings = {"num_items": num_items, "max_items": max_items, "member": member}
        self.vectors = nn.Embedding(num_items + 1, dim, padding_idx=0)

    def init_args(self) -> dict:
        return {"dim": self.dim, **self.settings}

    @property
    def input_config(self) -> dict:
        return {"class_path": "examples.user_history.History", "init_args": self.settings}

    def forward(self, inputs) -> Tokens:
        return Tokens(self.vectors(inputs["items"]), inputs["items"] > 0)

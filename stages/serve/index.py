"""Index: a set of shards as unit vectors in memory, and who is nearest to a query."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from datamodules.modalities.build import build_modalities
from datamodules.shards.reader import ShardReader
from modules.embedder import Embedder
from stages.embedding import embed_set


@dataclass(frozen=True)
class Hit:
    """A sample that was found: its key, the cosine similarity of query and sample, and its text where it has one."""

    key: str
    score: float
    text: str | None


class Index:
    """Samples to search, by each of their modalities; the search is exact.

    Args:
        keys: of the samples.
        texts: by key, of those that have one.
        vectors: modality -> (rows, dim), unit length.
        rows: modality -> (rows,), the sample that each vector is of.
    """

    def __init__(
        self,
        keys: list[str],
        texts: Mapping[str, str],
        vectors: Mapping[str, Tensor],
        rows: Mapping[str, Tensor],
    ) -> None:
        self.keys, self.texts, self.vectors, self.rows = keys, texts, vectors, rows

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def build(
        cls, embedder: Embedder, shards: Path, *, batch_size: int = 64, device: str | torch.device = "cpu"
    ) -> "Index":
        """Embed every sample of a set of shards.

        Raises:
            FileNotFoundError: when there is no such set.
            ValueError: when it holds no sample that the embedder knows.
        """
        modalities = build_modalities(embedder.input_configs)
        space = embed_set(embedder, shards, modalities, batch_size=batch_size, device=device)
        known = [name for name in modalities if len(space.rows[name])]
        return cls(
            space.keys,
            read_texts(shards),
            {name: space.vectors[name] for name in known},
            {name: space.rows[name] for name in known},
        )

    def search(self, query: Tensor, count: int) -> dict[str, list[Hit]]:
        """Return the `count` nearest samples to a unit vector (dim,) by each modality, nearest first."""
        hits = {}
        for name, vectors in self.vectors.items():
            scores, order = (vectors @ query).topk(min(count, len(vectors)))
            keys = [self.keys[row] for row in self.rows[name][order].tolist()]
            pairs = zip(keys, scores.tolist(), strict=True)
            hits[name] = [Hit(key, score, self.texts.get(key)) for key, score in pairs]
        return hits


def read_texts(shards: Path) -> dict[str, str]:
    """Return the text of each sample that has one, by key."""
    reader = ShardReader(shards)
    having = (position for position in range(len(reader)) if "txt" in reader.extensions(position))
    return {
        reader.key(position): reader.read(position, "txt").decode("utf-8", "replace") for position in having
    }

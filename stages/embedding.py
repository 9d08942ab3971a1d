"""Running encoders over many samples, without training: sets of shards, or samples that are being prepared."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.build import Modality
from datamodules.sources.source import Sample
from datamodules.stream import batches
from modules.embedder import Embedder


@dataclass(frozen=True)
class Space:
    """A set of samples as unit vectors.

    keys: one per sample; vectors: modality -> (rows, dim); rows: modality -> (rows,), which sample each is of.
    """

    keys: list[str]
    vectors: dict[str, Tensor]
    rows: dict[str, Tensor]

    def pair(self, first: str, second: str) -> tuple[Tensor, Tensor, list[str]]:
        """Return the vectors of two modalities, and the keys, of the samples that have both, in order."""
        both = self.rows[first][torch.isin(self.rows[first], self.rows[second])]
        vectors = [self.vectors[name][torch.isin(self.rows[name], both)] for name in (first, second)]
        return *vectors, [self.keys[row] for row in both.tolist()]


@torch.inference_mode()
def embed_set(
    embedder: Embedder,
    shards: str | Path,
    modalities: Mapping[str, Modality],
    *,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
) -> Space:
    """Embed every sample of a set of shards; a modality that none of them has is there with zero rows.

    Raises:
        FileNotFoundError: when there is no such set.
        ValueError: when no sample has any of the modalities.
    """
    keys: list[str] = []
    vectors = {name: [torch.zeros(0, embedder.dim)] for name in modalities}
    rows = {name: [torch.zeros(0, dtype=torch.long)] for name in modalities}
    for batch in batches(shards, modalities, batch_size):
        for name, found in embedder(batch.to(device).inputs).items():
            vectors[name].append(found.cpu())
            rows[name].append(batch.rows[name].cpu() + len(keys))
        keys += batch.keys
    if not keys:
        raise ValueError(
            f"{shards} holds no sample with {' or '.join(modalities)} that can be decoded: "
            "expected samples to embed"
        )
    return Space(
        keys,
        {name: torch.cat(found) for name, found in vectors.items()},
        {name: torch.cat(found) for name, found in rows.items()},
    )


@dataclass
class Decoded:
    """One modality of some samples, decoded."""

    values: list[Any] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """Of which sample each value is, ascending."""
    bad: dict[int, BadSample] = field(default_factory=dict)
    """Sample -> why it could not be decoded; samples without the modality are in neither."""


def member_for(modality: Modality, sample: Sample) -> str | None:
    """Return the suffix of the member that a modality answers to, or None where the sample has none."""
    return next((member for member in modality.members if member in sample.members), None)


def decode(samples: Sequence[Sample], modality: Modality) -> Decoded:
    """Decode one modality of samples whose members are bytes."""
    decoded = Decoded()
    for place, sample in enumerate(samples):
        member = member_for(modality, sample)
        if member is None:
            continue
        try:
            decoded.values.append(modality.decode(sample.members[member], member))
            decoded.places.append(place)
        except BadSample as bad:
            decoded.bad[place] = bad
    return decoded


def in_batches(
    values: Sequence[Any], modality: Modality, batch_size: int, device: str | torch.device = "cpu"
) -> Iterator[dict[str, Tensor]]:
    """Yield Inputs of at most `batch_size` values, on a device."""
    for start in range(0, len(values), batch_size):
        inputs = modality.collate(list(values[start : start + batch_size]))
        yield {name: tensor.to(device) for name, tensor in inputs.items()}

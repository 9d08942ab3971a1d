"""SampleStream: samples of shards as batches, from any position, for any number of ranks and workers."""

import signal
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.batch import Batch
from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.build import Modality
from datamodules.modalities.features import check_features
from datamodules.shards.order import Order
from datamodules.shards.reader import ShardReader


class SampleSet:
    """The samples of shards that a model can use: those with a member for a modality, and for all required ones.

    Args:
        paths: folders of shards, tars or patterns.
        modalities: by name.
        require: names of the modalities that every sample must have.

    Raises:
        FileNotFoundError: when a path holds no shards.
        ValueError: when no sample has what is required.
    """

    def __init__(
        self,
        paths: str | Path | Iterable[str | Path],
        modalities: Mapping[str, Modality],
        require: Sequence[str] = (),
    ) -> None:
        self.reader = ShardReader(paths)
        for reason, names in self.reader.left_out().items():
            warnings.warn(
                f"left out of {paths}: {reason}: {len(names)} ({', '.join(names[:3])})", stacklevel=2
            )
        self.modalities, self.require = dict(modalities), tuple(require)
        if unknown := set(require) - set(modalities):
            raise ValueError(
                f"require names {', '.join(sorted(unknown))}, the modalities are {', '.join(modalities)}"
            )
        self.positions = [p for p in range(len(self.reader)) if self._is_usable(self.members(p))]
        if not self.positions:
            there = sorted({e for index in self.reader.indices for members in index.members for e in members})
            wanted = {name: modality.members for name, modality in self.modalities.items()}
            raise ValueError(
                f"{paths} holds {len(self.reader)} samples with members {', '.join(there) or 'of no kind'}, "
                f"and none has what the model takes: {wanted}{f', all of {require}' if require else ''}"
            )
        check_features(self.reader, self.modalities)

    def __len__(self) -> int:
        return len(self.positions)

    def members(self, position: int) -> dict[str, str]:
        """Return modality -> extension of the member that a sample of the reader has for it."""
        there = set(self.reader.extensions(position))
        found = {}
        for name, modality in self.modalities.items():
            extension = next((member for member in modality.members if member in there), None)
            if extension is not None:
                found[name] = extension
        return found

    def batch(
        self, places: Iterable[int], cursor: int, rngs: Iterable[np.random.Generator] | None = None
    ) -> Batch:
        """Decode and collate samples; what cannot be decoded is left out and named.

        Args:
            places: of samples in this set.
            cursor: of the batch.
            rngs: one for each place, to augment with; None for evaluation.
        """
        values: dict[str, list[Any]] = {name: [] for name in self.modalities}
        rows: dict[str, list[int]] = {name: [] for name in self.modalities}
        keys: list[str] = []
        skipped: dict[str, list[str]] = {}
        places = list(places)
        generators: list[np.random.Generator | None] = list(rngs) if rngs else [None] * len(places)
        for place, rng in zip(places, generators, strict=True):
            position = self.positions[place]
            key = self.reader.key(position)
            decoded = {}
            for name, extension in self.members(position).items():
                try:
                    value = self.modalities[name].decode(self.reader.read(position, extension), extension)
                except BadSample as bad:
                    skipped.setdefault(bad.reason, []).append(f"{key}.{extension}: {bad.detail}")
                else:
                    decoded[name] = value if rng is None else self.modalities[name].augment(value, rng)
            if not self._is_usable(decoded):
                continue
            for name, value in decoded.items():
                values[name].append(value)
                rows[name].append(len(keys))
            keys.append(key)
        return Batch(
            inputs={name: modality.collate(values[name]) for name, modality in self.modalities.items()},
            rows={name: torch.tensor(index, dtype=torch.long) for name, index in rows.items()},
            keys=keys,
            cursor=cursor,
            skipped=skipped,
        )

    def _is_usable(self, names: Iterable[str]) -> bool:
        names = set(names)
        return bool(names) and names.issuperset(self.require)


@dataclass(frozen=True)
class Share:
    """Which part of every global batch this process takes: rank r of n."""

    rank: int = 0
    world_size: int = 1


class SampleStream(IterableDataset):
    """Batches of a set, whole ones made by one worker each, in an order that depends on nothing but the seed.

    Batch b of the whole job holds the global positions from `start + b * batch_size` on; a rank takes its slice
    of them, and worker w of n makes the batches with `b % n == w`. So one integer, the position, goes on with any
    number of ranks and workers. A batch from which bad samples were left out is smaller.

    Args:
        samples: the set.
        batch_size: over all ranks.
        share: of this rank; the batch size divides by its world size.
        seed: of order and augmentation; None for evaluation: the order of the shards, once, nothing augmented.
        start: global position to begin at; each pass over the stream begins where this says at that time.
    """

    def __init__(
        self, samples: SampleSet, batch_size: int, share: Share, *, seed: int | None = None, start: int = 0
    ) -> None:
        self.samples, self.batch_size, self.share, self.seed, self.start = (
            samples,
            batch_size,
            share,
            seed,
            start,
        )

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:
            torch.set_num_threads(1)
            for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                signal.signal(stop, signal.SIG_IGN)  # the main process decides when to stop
        count = len(self.samples)
        mine = self.batch_size // self.share.world_size
        order = Order(count, seed=self.seed or 0, shuffle=self.seed is not None)
        begin = self.start + number * self.batch_size
        while self.seed is not None or begin < count:
            first = begin + self.share.rank * mine
            if self.seed is None:
                yield self.samples.batch(
                    range(min(first, count), min(first + mine, count)), begin + self.batch_size
                )
            else:
                positions = range(first, first + mine)
                rngs = (np.random.default_rng(np.random.SeedSequence((self.seed, 1, p))) for p in positions)
                yield self.samples.batch([order(p) for p in positions], begin + self.batch_size, rngs)
            begin += stride * self.batch_size


def batches(
    paths: str | Path | Iterable[str | Path],
    modalities: Mapping[str, Modality],
    batch_size: int,
    require: Sequence[str] = (),
) -> Iterator[Batch]:
    """Return one pass over shards, in order, in this process.

    Args:
        paths: folders of shards, tars or patterns.
        modalities: by name.
        batch_size: samples in a batch.
        require: modalities that every sample must have.
    """
    return iter(SampleStream(SampleSet(paths, modalities, require), batch_size, Share()))

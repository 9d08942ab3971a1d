"""SampleStream: samples of shards as batches, from any position, for any number of ranks and workers."""

import itertools
import multiprocessing
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
from datamodules.shards.cache import ShardCache
from datamodules.shards.columns import LeftOut
from datamodules.shards.errors import ShardError
from datamodules.shards.order import Order, Positions
from datamodules.shards.reader import ShardReader


class SampleSet:
    """The samples of shards that a model can use: those with a member for a modality, and for all required ones.

    Args:
        paths: folders of shards, tars, patterns, lists or URLs.
        modalities: by name.
        require: names of the modalities that every sample must have.
        cache: where shards of URLs are kept.

    Attributes:
        positions: (samples,), of each in the reader.

    Raises:
        FileNotFoundError: when a path holds no shards.
        ValueError: when no sample has what is required.
    """

    def __init__(
        self,
        paths: str | Path | Iterable[str | Path],
        modalities: Mapping[str, Modality],
        require: Sequence[str] = (),
        cache: ShardCache | None = None,
    ) -> None:
        self.reader = ShardReader(paths, cache)
        self.modalities, self.require = dict(modalities), tuple(require)
        if unknown := set(require) - set(modalities):
            raise ValueError(
                f"require names {', '.join(sorted(unknown))}, the modalities are {', '.join(modalities)}"
            )
        self._members = [self._chosen(kind) for kind in self.reader.kinds]
        is_usable = np.array([self._is_usable(chosen) for chosen in self._members], dtype=bool)
        usable = is_usable[self.reader.kind_of]
        self.positions = np.flatnonzero(usable)
        self._lacking = LeftOut(
            int((~usable).sum()),
            [self.reader.key(int(position)) for position in np.flatnonzero(~usable)[:20]],
        )
        for reason, left in self.left_out().items():
            warnings.warn(
                f"left out of {paths}: {reason}: {left.count} ({', '.join(left.names[:3])})", stacklevel=2
            )
        if not len(self.positions):
            there = sorted({extension for kind in self.reader.kinds for extension in kind})
            wanted = {name: modality.members for name, modality in self.modalities.items()}
            out = "; ".join(
                f"{reason}: {', '.join(o.names[:3])}" for reason, o in self.reader.left_out().items()
            )
            raise ShardError(
                f"{paths} holds {len(self.reader)} samples with members {', '.join(there) or 'of no kind'}, "
                f"and none has what the model takes: {wanted}{f', all of {require}' if require else ''}"
                f"{f' (left out: {out})' if out else ''}"
            )
        check_features(self.reader, self.modalities)

    def __len__(self) -> int:
        return len(self.positions)

    def members(self, position: int) -> dict[str, str]:
        """Return modality -> extension of the member that a sample of the reader has for it."""
        return self._members[self.reader.kind_of[position]]

    def left_out(self) -> dict[str, LeftOut]:
        """Return reason -> what is no part of this set: what the indices leave out, and what lacks a modality."""
        found = self.reader.left_out()
        if self.require and self._lacking.count:
            found["lacks_modality"] = self._lacking
        return found

    def counts(self, paths_of: Sequence[int]) -> list[int]:
        """Return how many samples each group of consecutive paths has, for groups of so many paths each."""
        ends = [self.reader.path_ends[last - 1] for last in np.cumsum(paths_of)]
        return np.diff(np.searchsorted(self.positions, ends), prepend=0).tolist()

    def shards(self) -> np.ndarray:
        """Return the shard that each sample lies in, (samples,) int64."""
        return np.searchsorted(self.reader.ends, self.positions, side="right")

    def together(self) -> dict[tuple[str, str], int]:
        """Return how many samples have both of two modalities, for every two, as the indices tell: nothing is read."""
        counts = np.bincount(self.reader.kind_of[self.positions], minlength=len(self._members)).tolist()
        return {
            pair: sum(
                count
                for count, chosen in zip(counts, self._members, strict=True)
                if chosen.keys() >= set(pair)
            )
            for pair in itertools.combinations(self.modalities, 2)
        }

    def lengths(self, modality: str) -> np.ndarray:
        """Return the bytes of the member that each sample has for a modality, (samples,) int64; 0 where it has none."""
        return self.reader.sizes([chosen.get(modality) for chosen in self._members])[self.positions]

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
            position = int(self.positions[place])
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

    def _chosen(self, kind: Sequence[str]) -> dict[str, str]:
        found = {}
        for name, modality in self.modalities.items():
            extension = next((member for member in modality.members if member in kind), None)
            if extension is not None:
                found[name] = extension
        return found

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
        order: which sample comes at each position; by default each once an epoch.
    """

    def __init__(
        self,
        samples: SampleSet,
        batch_size: int,
        share: Share,
        *,
        seed: int | None = None,
        start: int = 0,
        order: Positions | None = None,
    ) -> None:
        self.samples, self.batch_size, self.share = samples, batch_size, share
        self.seed, self.start = seed, start
        self.order = order or Order(len(samples), seed=seed or 0, shuffle=seed is not None)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:
            torch.set_num_threads(1)
            for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                signal.signal(stop, signal.SIG_IGN)  # the main process decides when to stop
        count = len(self.samples)
        mine = self.batch_size // self.share.world_size
        begin = self.start + number * self.batch_size
        while self.seed is not None or begin < count:
            first = begin + self.share.rank * mine
            if self.seed is None:
                places = range(min(first, count), min(first + mine, count))
                yield self.samples.batch(places, begin + self.batch_size)
            else:
                rngs = (
                    np.random.default_rng(np.random.SeedSequence((self.seed, 1, position)))
                    for position in range(first, first + mine)
                )
                places = self.order.span(first, first + mine).tolist()
                yield self.samples.batch(places, begin + self.batch_size, rngs)
            begin += stride * self.batch_size


def end_workers() -> None:
    """Kill what is left of the workers: they hear no SIGTERM, by which Python ends and then awaits them at its exit.

    A training that fails keeps its loader alive with the error's trace, and would never end.
    """
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def batches(
    paths: str | Path | Iterable[str | Path],
    modalities: Mapping[str, Modality],
    batch_size: int,
    require: Sequence[str] = (),
) -> Iterator[Batch]:
    """Return one pass over shards, in order, in this process.

    Args:
        paths: folders of shards, tars, patterns or lists.
        modalities: by name.
        batch_size: samples in a batch.
        require: modalities that every sample must have.
    """
    return iter(SampleStream(SampleSet(paths, modalities, require), batch_size, Share()))

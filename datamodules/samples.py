"""SampleDataModule: shards to batches, for every training stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from datamodules.batch import Batch
from datamodules.bucketing import LengthBuckets
from datamodules.mixture import Mixture, MixtureSource
from datamodules.modalities.build import build_modalities
from datamodules.modalities.target import check_targets
from datamodules.shards.cache import ShardCache
from datamodules.shards.order import Order, Positions
from datamodules.stream import SampleSet, SampleStream, Share, end_workers

MIN_BAD_SAMPLES = 20
CACHE_DIR = "~/.cache/trivium/shards"


@dataclass
class Buckets:
    """Batches of samples of like length, so that less is padding."""

    by: str
    """The modality whose members' bytes are the length, such as `text`."""
    num_batches: int = 32
    """Batches among which samples are sorted; more pad less, and come in an order that is more by length."""


@dataclass
class Cache:
    """Where shards of URLs are kept."""

    folder: str = CACHE_DIR
    """On a local disk; ranks and workers of one machine share it."""
    max_bytes: int = 100 << 30
    """Of all shards in it; those that were used longest ago go first."""
    timeout_s: float = 60.0
    """How long a server may be silent."""


class SampleDataModule(LightningDataModule):
    """Train on an endless stream of shuffled samples, validate on one pass in order.

    Its whole state is the cursor, the global position behind the last batch that was trained on: a run goes on
    from there with any number of ranks and workers, none repeated and none lost.

    Args:
        train: folders of shards, tars, patterns, lists or URLs; or, to mix several sources by weight, name ->
            `{paths: …, weight: …}`.
        val: paths as in `train`, held out.
        batch_size: samples in one batch over all ranks; gradient accumulation takes several.
        num_workers: processes that read and decode beside the training; 0 does it in turn with it.
        seed: of order and augmentation.
        augment: modality -> init arguments of it that training alone has, such as `{image: {max_shift: 4}}`.
        max_bad_fraction: of all samples; a run stops when more are damaged or cannot be decoded.
        buckets: to make batches of samples of like length; None takes them as they come.
        shuffle_shards: shuffle the samples of so many shards at a time, so that no others need to be at hand; None
            shuffles all.
        cache: where shards of URLs are kept.
        input_configs: modality -> how its inputs are made; the model says it.
        require: modalities that a sample must have; the model says it.

    Raises:
        ValueError: when a number makes no sense, or nothing in the shards fits the model.
        FileNotFoundError: when there are no shards.
    """

    def __init__(
        self,
        train: str | list[str] | dict[str, MixtureSource],
        val: str | list[str] | None = None,
        batch_size: int = 64,
        num_workers: int = 1,
        seed: int = 0,
        augment: dict[str, dict[str, Any]] | None = None,
        max_bad_fraction: float = 0.01,
        buckets: Buckets | None = None,
        shuffle_shards: int | None = None,
        cache: Cache | None = None,
        input_configs: dict[str, dict[str, Any]] | None = None,
        require: list[str] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0 or not 0 <= max_bad_fraction <= 1:
            raise ValueError(
                f"data: batch_size is {batch_size}, num_workers {num_workers}, max_bad_fraction {max_bad_fraction}: "
                "expected at least 1, at least 0, and a share from 0 to 1"
            )
        if shuffle_shards is not None and shuffle_shards < 1:
            raise ValueError(
                f"data.shuffle_shards is {shuffle_shards}: expected at least 1, or null to shuffle all"
            )
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.max_bad_fraction = max_bad_fraction
        self.cursor, self.bad_samples = 0, 0
        self._stream: SampleStream | None = None
        configs = input_configs or {}
        require = require or []
        cache = cache or Cache()
        shards = ShardCache(Path(cache.folder).expanduser(), cache.max_bytes, cache.timeout_s)
        sources = _sources(train)
        paths = [path for source in sources for path in _listed(source.paths)]
        self.train = SampleSet(paths, build_modalities(_augmented(configs, augment or {})), require, shards)
        self.val = SampleSet(val, build_modalities(configs), require, shards) if val else None
        for name, samples in (("train", self.train), ("val", self.val)):
            if samples:
                _check_left_out(name, samples, max_bad_fraction)
                check_targets(f"data.{name}", samples, max_bad_fraction)
        _check_cache(self.train, shuffle_shards, cache.max_bytes)
        self.order = self._order(sources, buckets, shuffle_shards)
        self._lost_per_sample = self.train.reader.lost / len(self.train.reader)

    def _order(
        self, sources: Sequence[MixtureSource], buckets: Buckets | None, shuffle_shards: int | None
    ) -> Positions:
        """Return which sample comes where: shuffled in each source, mixed by weight, sorted by length nearby."""
        shards = self.train.shards()
        sizes = self.train.counts([len(_listed(source.paths)) for source in sources])
        orders, begin = [], 0
        for number, (size, source) in enumerate(zip(sizes, sources, strict=True)):
            if not size:
                raise ValueError(
                    f"data.train: {source.paths} has no sample that the model can use; leave it out"
                )
            seed = (self.seed,) if len(sources) == 1 else (self.seed, 4, number)
            own = shards[begin : begin + size]
            orders.append(Order(size, seed=seed, shards=own - own[0], shards_at_once=shuffle_shards))
            begin += size
        order: Positions = orders[0]
        if len(orders) > 1:
            order = Mixture(orders, [source.weight for source in sources], seed=self.seed)
        if buckets is None:
            return order
        if buckets.by not in self.train.modalities:
            raise ValueError(
                f"data.buckets.by is '{buckets.by}', the modalities are {', '.join(self.train.modalities)}"
            )
        return LengthBuckets(
            order,
            self.train.lengths(buckets.by),
            batch_size=self.batch_size,
            num_batches=buckets.num_batches,
            seed=self.seed,
        )

    def train_dataloader(self) -> DataLoader:
        self._stream = SampleStream(
            self.train,
            self.batch_size,
            self._share(),
            seed=self.seed,
            start=self.cursor,
            order=self.order,
        )
        return self._loader(self._stream)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        if self.val is None:
            return []
        return self._loader(SampleStream(self.val, self.batch_size, self._share()))

    def example(self, world_size: int = 1) -> Batch:
        """Return the first batch of training, as the first of `world_size` ranks gets it."""
        share = self._checked(Share(0, world_size))
        return next(iter(SampleStream(self.train, self.batch_size, share, seed=self.seed, order=self.order)))

    def consumed(self, batch: Batch) -> None:
        """Note that a batch is being trained on; the stage calls it.

        Raises:
            ValueError: when more than `max_bad_fraction` of the samples were damaged or could not be decoded.
        """
        self.cursor = batch.cursor
        if self._stream:
            self._stream.start = self.cursor  # Lightning begins the loader anew with limit_train_batches
        for reason, names in batch.skipped.items():
            if self.bad_samples < MIN_BAD_SAMPLES:
                rank_zero_warn(f"left out ({reason}): {names[0][:300]}")
            self.bad_samples += len(names) * self._share().world_size  # as many on the other ranks, about
        # What the indices leave out is spread over the run, as it would be if it came up in its turn.
        lost = round(self._lost_per_sample * self.cursor)
        if self.bad_samples + lost > max(MIN_BAD_SAMPLES, self.max_bad_fraction * (self.cursor + lost)):
            damaged = f", {lost} more were damaged in the shards" if lost else ""
            raise ValueError(
                f"{self.bad_samples} of {self.cursor} samples could not be decoded{damaged}: more than "
                f"max_bad_fraction {self.max_bad_fraction}; prepare the shards again. The last: {batch.skipped}"
            )

    def state_dict(self) -> dict[str, int]:
        return {"cursor": self.cursor, "bad_samples": self.bad_samples}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.cursor, self.bad_samples = state_dict["cursor"], state_dict["bad_samples"]

    def _share(self) -> Share:
        if self.trainer is None:
            return self._checked(Share())
        # Where tensors are split, several ranks take the same samples; None where nothing is distributed.
        spread = self.trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        return self._checked(Share(spread["rank"], spread["num_replicas"]))

    def _checked(self, share: Share) -> Share:
        if self.batch_size % share.world_size:
            raise ValueError(
                f"data.batch_size is {self.batch_size}, over all ranks, and does not divide by {share.world_size} ranks"
            )
        return share

    def _loader(self, stream: SampleStream) -> DataLoader:
        Finalize(None, end_workers, exitpriority=100)  # before those that await them
        return DataLoader(
            stream,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )


def _sources(train: str | list[str] | Mapping[str, MixtureSource]) -> list[MixtureSource]:
    if not isinstance(train, Mapping):
        return [MixtureSource(paths=train)]
    if not train:
        raise ValueError("data.train names no source")
    return list(train.values())


def _listed(paths: str | list[str]) -> list[str]:
    return [paths] if isinstance(paths, str) else list(paths)


def _check_left_out(name: str, samples: SampleSet, max_bad_fraction: float) -> None:
    """Stop before the first step where too much of the shards is damaged.

    Raises:
        ValueError: says what was left out and why.
    """
    lost, there = samples.reader.lost, len(samples.reader)
    if lost > max(MIN_BAD_SAMPLES, max_bad_fraction * (lost + there)):
        reasons = "; ".join(
            f"{reason}: {out.count} ({', '.join(out.names[:3])})"
            for reason, out in samples.reader.left_out().items()
        )
        raise ValueError(
            f"data.{name}: about {lost} of {lost + there} samples are damaged, more than max_bad_fraction "
            f"{max_bad_fraction}: copy or prepare the shards again. {reasons}"
        )


def _check_cache(samples: SampleSet, shuffle_shards: int | None, max_bytes: int) -> None:
    """Refuse to shuffle over shards that must be fetched again and again.

    Raises:
        ValueError: when the shards that are read in turn do not fit the cache.
    """
    sizes = [
        index.tar_bytes
        for tar, index in zip(samples.reader.tars, samples.reader.indices, strict=True)
        if isinstance(tar, str)
    ]
    needed = sum(sorted(sizes)[-2 * (shuffle_shards or len(sizes)) :])  # a group and the next one
    if needed > max_bytes:
        raise ValueError(
            f"data.cache.max_bytes is {max_bytes}, and the shards that are read in turn have up to {needed}: each "
            "would be fetched again and again; raise it, or set data.shuffle_shards to fewer shards at a time"
        )


def _augmented(
    configs: dict[str, dict[str, Any]], augment: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    if unknown := set(augment) - set(configs):
        raise ValueError(
            f"data.augment names {', '.join(sorted(unknown))}, the modalities are {', '.join(configs)}"
        )
    return {
        name: {**config, "init_args": {**config.get("init_args", {}), **augment.get(name, {})}}
        for name, config in configs.items()
    }

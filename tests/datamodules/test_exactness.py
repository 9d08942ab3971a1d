"""Exact resume: stopped at any step, with any workers and ranks before and after, no sample is lost or repeated."""

import itertools
import random

import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.shards.writer import write_shards

SAMPLES, BATCH = 48, 8
NUMBER = {
    "class_path": "datamodules.modalities.label.Label",
    "init_args": {"classes": [str(n) for n in range(SAMPLES)]},
}
TRIALS = range(20)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Uneven shards: one of a single sample, one of none."""
    folder = tmp_path_factory.mktemp("shards")
    samples = [
        {"__key__": f"{n:02d}", "cls": str(n).encode(), "txt": b"x" * (n * 7 % 31)} for n in range(SAMPLES)
    ]
    for name, part in {"a": samples[:1], "b": samples[1:30], "c": samples[30:]}.items():
        write_shards(part, folder / name)
    (folder / "d").mkdir()
    (folder / "d" / "000000.tar").write_bytes(bytes(10240))
    return folder


def stream(shards, kind, rank, world_size, start):
    """Return the loader of one rank, as the data module makes it."""
    from datamodules.mixture import MixtureSource
    from datamodules.samples import Buckets, SampleDataModule
    from datamodules.stream import SampleStream, Share

    paths = [str(shards / name) for name in "abcd"]
    options = {
        "plain": {"train": paths},
        "shard by shard": {"train": paths, "shuffle_shards": 1},
        "mixture": {"train": {"x": MixtureSource(paths[:2], 2), "y": MixtureSource(paths[2:], 1)}},
        "buckets": {"train": paths, "buckets": Buckets(by="label", num_batches=3)},
    }[kind]
    data = SampleDataModule(batch_size=BATCH, input_configs={"label": NUMBER}, seed=3, **options)
    return SampleStream(
        data.train, BATCH, Share(rank, world_size), seed=data.seed, start=start, order=data.order
    )


def steps(shards, kind, *, world_size, num_workers, start, count):
    """Return the batches of so many steps: for each step those of all ranks."""
    ranks = []
    for rank in range(world_size):
        loader = DataLoader(
            stream(shards, kind, rank, world_size, start), batch_size=None, num_workers=num_workers
        )
        ranks.append(list(itertools.islice(loader, count)))
    return list(zip(*ranks, strict=True))


def keys(found):
    return [key for step in found for batch in step for key in batch.keys]


def check(shards, trial, *, world_size, num_workers, after=None):
    """Stop at a random step and go on, with another topology where `after` names one."""
    draw = random.Random(f"{trial} {world_size} {num_workers}")
    kind = draw.choice(["plain", "shard by shard", "mixture", "buckets"])
    total = 2 * SAMPLES // BATCH
    stop = draw.randrange(1, total)
    before = steps(shards, kind, world_size=world_size, num_workers=num_workers, start=0, count=stop)
    [cursor] = {batch.cursor for batch in before[-1]}
    then, workers = after or (world_size, num_workers)
    rest = steps(shards, kind, world_size=then, num_workers=workers, start=cursor, count=total - stop)
    unbroken = steps(shards, kind, world_size=1, num_workers=0, start=0, count=total)
    seen = keys(before) + keys(rest)
    assert seen == keys(unbroken)
    if kind != "mixture":
        everyone = [f"{n:02d}" for n in range(SAMPLES)]
        assert sorted(seen[:SAMPLES]) == sorted(seen[SAMPLES:]) == everyone
    values = torch.cat([batch.inputs["label"]["label"] for step in before + rest for batch in step])
    assert values.tolist() == [int(key) for key in seen]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_run_that_was_stopped_anywhere_sees_each_sample_once_an_epoch(shards, world_size):
    for trial in TRIALS:
        check(shards, trial, world_size=world_size, num_workers=0)


def test_from_two_ranks_to_one_and_four_nothing_is_lost_or_repeated(shards):
    for trial in TRIALS:
        for before, after in ((2, 1), (1, 2), (4, 2), (2, 4)):
            check(shards, trial, world_size=before, num_workers=0, after=(after, 0))


def test_two_workers_to_none_and_one_rank_to_two(shards):
    check(shards, 1, world_size=1, num_workers=2, after=(2, 0))


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_with_workers_a_run_that_was_stopped_anywhere_sees_each_sample_once_an_epoch(
    shards, world_size, num_workers
):
    for trial in TRIALS:
        check(shards, trial, world_size=world_size, num_workers=num_workers)


@pytest.mark.slow
def test_workers_and_ranks_may_change_together(shards):
    for trial in TRIALS:
        draw = random.Random(trial)
        after = draw.choice([1, 2, 4]), draw.choice([0, 1, 2])
        check(
            shards, trial, world_size=draw.choice([1, 2, 4]), num_workers=draw.choice([0, 1, 2]), after=after
        )


@pytest.mark.parametrize("kind", ["plain", "shard by shard", "mixture", "buckets"])
def test_position_a_million_reads_nothing_of_what_comes_before(shards, kind, monkeypatch):
    far = stream(shards, kind, 0, 1, 10**6)
    read = []
    monkeypatch.setattr(
        type(far.samples.reader), "read", lambda reader, position, extension: read.append(position) or b"0"
    )
    batch = next(iter(far))
    assert len(read) == BATCH
    assert batch.cursor == 10**6 + BATCH


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 0), (2, 0), (4, 0), (2, 3)])
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_every_rank_validates_as_many_batches_with_fewer_shards_than_workers(shards, world_size, num_workers):
    from datamodules.modalities.build import build_modalities
    from datamodules.stream import SampleSet, SampleStream, Share

    samples = SampleSet([shards / "a", shards / "c", shards / "d"], build_modalities({"label": NUMBER}))
    ranks = [
        list(
            DataLoader(
                SampleStream(samples, BATCH, Share(r, world_size)), batch_size=None, num_workers=num_workers
            )
        )
        for r in range(world_size)
    ]
    assert {len(found) for found in ranks} == {3}  # 19 samples
    assert keys(list(zip(*ranks, strict=True))) == ["00", *(f"{n:02d}" for n in range(30, 48))]

"""IndexedSamples: webdataset's own stages run behind it, from any position, on any number of ranks and workers."""

import itertools

import pytest

from datamodules.shards.pipeline import IndexedSamples
from datamodules.shards.reader import ShardReader
from datamodules.shards.writer import write_shards


@pytest.fixture
def reader(tmp_path):
    write_shards(
        ({"__key__": f"{n:02d}", "txt": str(n).encode()} for n in range(20)), tmp_path, max_samples=6
    )
    return ShardReader(tmp_path)


def test_webdatasets_filters_fit_behind_it(reader):
    import webdataset

    pipeline = webdataset.DataPipeline(
        IndexedSamples(reader),
        webdataset.select(lambda sample: int(sample["txt"]) % 2 == 0),
        webdataset.decode(),
        webdataset.to_tuple("__key__", "txt"),
        webdataset.batched(4, partial=True),
    )
    found = [pair for keys, texts in pipeline for pair in zip(keys, texts, strict=True)]
    assert found == [(f"{n:02d}", str(n)) for n in range(0, 20, 2)]


def test_it_begins_at_any_position(reader):
    whole = [sample["__key__"] for sample in itertools.islice(IndexedSamples(reader, seed=1), 50)]
    rest = [sample["__key__"] for sample in itertools.islice(IndexedSamples(reader, seed=1, start=13), 37)]
    assert rest == whole[13:]
    assert sorted(whole[:20]) == sorted(whole[20:40]) == [f"{n:02d}" for n in range(20)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_and_workers_share_the_samples(reader, num_workers):
    from torch.utils.data import DataLoader

    found = [
        sample["__position__"]
        for rank in range(2)
        for sample in DataLoader(
            IndexedSamples(reader, rank=rank, world_size=2), batch_size=None, num_workers=num_workers
        )
    ]
    assert sorted(found) == list(range(20))

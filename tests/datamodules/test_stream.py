"""SampleStream: each sample once an epoch, in an order that nothing but the seed decides, from any position."""

import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.modalities.bad_sample import BadSample
from datamodules.shards.writer import write_shards
from datamodules.stream import SampleSet, SampleStream, Share, batches


class Number:
    """A modality whose values are numbers written as text; training adds a random fraction."""

    members = ("num",)

    def decode(self, data, member):
        try:
            return float(data)
        except ValueError as error:
            raise BadSample("not_a_number", data.decode()) from error

    def augment(self, value, rng):
        return value + rng.uniform(0, 0.5)

    def collate(self, values):
        return {"number": torch.tensor(values, dtype=torch.float64)}


@pytest.fixture
def shards(tmp_path):
    write_shards(
        ({"__key__": f"{n:02d}", "num": str(n).encode()} for n in range(23)), tmp_path, max_samples=7
    )
    return tmp_path


def stream(shards, start=0, rank=0, world_size=1, batch_size=4, seed=5):
    samples = SampleSet(shards, {"number": Number()})
    return SampleStream(samples, batch_size, Share(rank, world_size), seed=seed, start=start)


def take(stream, count, num_workers=0):
    loader = DataLoader(stream, batch_size=None, num_workers=num_workers)
    return list(itertools.islice(loader, count))


def keys(found):
    return [key for batch in found for key in batch.keys]


def test_every_sample_comes_once_an_epoch_and_epochs_differ(shards):
    seen = keys(take(stream(shards), 12))[:46]
    assert sorted(seen[:23]) == sorted(seen[23:]) == [f"{n:02d}" for n in range(23)]
    assert seen[:23] != seen[23:]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("stop", [1, 3, 7])
def test_going_on_from_any_position_equals_the_unbroken_run_with_any_number_of_workers(
    shards, num_workers, stop
):
    whole = take(stream(shards), 9)
    cursor = whole[stop - 1].cursor
    rest = take(stream(shards, start=cursor), 9 - stop, num_workers)
    for before, after in zip(whole[stop:], rest, strict=True):
        assert before.keys == after.keys
        assert before.cursor == after.cursor
        assert torch.equal(
            before.inputs["number"]["number"], after.inputs["number"]["number"]
        )  # augmented alike


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_batches_of_one_process_and_may_change_in_between(shards, world_size):
    whole = take(stream(shards), 8)
    first = [take(stream(shards, rank=r, world_size=world_size), 3) for r in range(world_size)]
    cursor = first[0][-1].cursor
    then = take(stream(shards, start=cursor), 5)
    joined = [[key for ranks in first for key in ranks[b].keys] for b in range(3)] + [
        batch.keys for batch in then
    ]
    assert joined == [batch.keys for batch in whole]


def test_another_seed_gives_another_order(shards):
    assert keys(take(stream(shards, seed=5), 5)) != keys(take(stream(shards, seed=6), 5))


def test_a_position_far_along_is_reached_at_once(shards):
    [batch] = take(stream(shards, start=10**9), 1)
    assert len(batch) == 4
    assert batch.cursor == 10**9 + 4


def test_evaluation_is_one_pass_in_order_with_nothing_augmented(shards):
    found = list(batches(shards, {"number": Number()}, 5))
    assert keys(found) == [f"{n:02d}" for n in range(23)]
    assert [len(batch) for batch in found] == [5, 5, 5, 5, 3]
    assert torch.cat([b.inputs["number"]["number"] for b in found]).tolist() == list(range(23))


@pytest.mark.parametrize("world_size", [2, 4])
def test_evaluation_gives_every_rank_as_many_batches(shards, world_size):
    samples = SampleSet(shards, {"number": Number()})
    ranks = [list(SampleStream(samples, 8, Share(r, world_size))) for r in range(world_size)]
    assert len({len(found) for found in ranks}) == 1
    assert sorted(key for found in ranks for key in keys(found)) == [f"{n:02d}" for n in range(23)]


def test_a_bad_sample_is_left_out_and_named(tmp_path):
    values = [b"0", b"one", b"2"]
    write_shards(({"__key__": str(n), "num": value} for n, value in enumerate(values)), tmp_path)
    [batch] = batches(tmp_path, {"number": Number()}, 3)
    assert batch.keys == ["0", "2"]
    assert batch.rows["number"].tolist() == [0, 1]
    assert batch.skipped == {"not_a_number": ["1.num: one"]}


def test_a_sample_that_lacks_a_modality_has_no_row_in_it(tmp_path):
    class Other(Number):
        members = ("oth",)

    samples = [{"num": b"0", "oth": b"5"}, {"oth": b"6"}, {"num": b"2"}, {"txt": b"neither"}]
    write_shards(({"__key__": str(n), **members} for n, members in enumerate(samples)), tmp_path)
    modalities = {"number": Number(), "other": Other()}
    [batch] = batches(tmp_path, modalities, 4)
    assert batch.keys == ["0", "1", "2"]
    assert batch.rows["number"].tolist() == [0, 2]
    assert batch.rows["other"].tolist() == [0, 1]
    [required] = batches(tmp_path, modalities, 4, require=["number", "other"])
    assert required.keys == ["0"]


def test_shards_without_what_the_model_takes_are_refused(tmp_path):
    write_shards([{"__key__": "0", "txt": b"x"}], tmp_path)
    with pytest.raises(
        ValueError, match=r"members txt, and none has what the model takes: \{'number': \('num',\)"
    ):
        SampleSet(tmp_path, {"number": Number()})


def test_order_is_a_permutation_of_each_epoch():
    from datamodules.shards.order import Order

    order = Order(100, seed=1)
    epochs = np.array([[order(epoch * 100 + place) for place in range(100)] for epoch in range(3)])
    assert (np.sort(epochs, axis=1) == np.arange(100)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 3

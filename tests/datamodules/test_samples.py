"""SampleDataModule: the cursor is the whole state, and what is left out is said."""

import itertools
from types import SimpleNamespace

import pytest

from datamodules.batch import Batch
from datamodules.shards.writer import write_shards

LABEL = {"label": {"class_path": "datamodules.modalities.label.Label", "init_args": {"classes": ["a"]}}}


@pytest.fixture
def shards(tmp_path):
    write_shards(({"__key__": f"{n:02d}", "cls": b"a"} for n in range(24)), tmp_path)
    return tmp_path


def data_module(shards, **options):
    from datamodules.samples import SampleDataModule

    return SampleDataModule(str(shards), batch_size=4, input_configs=LABEL, **options)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_that_is_begun_again_goes_on_behind_what_was_trained_on(shards, num_workers):
    data = data_module(shards, num_workers=num_workers)
    loader, seen = data.train_dataloader(), []
    for _ in range(3):  # as Lightning does with limit_train_batches
        for batch in itertools.islice(loader, 2):
            data.consumed(batch)
            seen += batch.keys
    assert sorted(seen) == [f"{n:02d}" for n in range(24)]
    assert data.state_dict()["cursor"] == 24


def test_the_cursor_of_a_checkpoint_is_where_the_next_loader_begins(shards):
    whole = [
        batch.keys for batch in itertools.islice(data_module(shards, num_workers=0).train_dataloader(), 5)
    ]
    resumed = data_module(shards, num_workers=0)
    resumed.load_state_dict({"cursor": 8, "bad_samples": 0})
    assert [batch.keys for batch in itertools.islice(resumed.train_dataloader(), 3)] == whole[2:]


def test_too_many_bad_samples_stop_the_run_with_their_reason(shards):
    data = data_module(shards, num_workers=0)
    few, many = ({"cut": [f"{n}.jpg" for n in range(count)]} for count in (20, 1))
    data.consumed(Batch({}, {}, [], cursor=4, skipped=few))
    with pytest.raises(
        ValueError, match=r"21 of 8 samples could not be decoded.*max_bad_fraction 0\.01.*cut"
    ):
        data.consumed(Batch({}, {}, [], cursor=8, skipped=many))


def test_bad_samples_are_judged_against_those_of_all_ranks(shards):
    data = data_module(shards, num_workers=0)
    data.trainer = SimpleNamespace(global_rank=0, world_size=2)
    with pytest.raises(ValueError, match="22 of 1000 samples"):
        data.consumed(Batch({}, {}, [], cursor=1000, skipped={"cut": [f"{n}.jpg" for n in range(11)]}))


def test_what_the_index_leaves_out_is_said(tmp_path):
    write_shards([{"__key__": "x", "cls": b"a", "pkl": b"code"}], tmp_path)
    with pytest.warns(UserWarning, match=r"left out .* unsafe_member: 1 \(x\.pkl\)"):
        data_module(tmp_path)

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
    data.trainer = SimpleNamespace(distributed_sampler_kwargs={"rank": 0, "num_replicas": 2})
    with pytest.raises(ValueError, match="22 of 1000 samples"):
        data.consumed(Batch({}, {}, [], cursor=1000, skipped={"cut": [f"{n}.jpg" for n in range(11)]}))


def test_what_the_index_leaves_out_is_said(tmp_path):
    write_shards([{"__key__": "x", "cls": b"a", "pkl": b"code"}], tmp_path)
    with pytest.warns(UserWarning, match=r"left out .* unsafe_member: 1 \(x\.pkl\)"):
        data_module(tmp_path)


def data_module_of(train, **options):
    from datamodules.samples import SampleDataModule

    return SampleDataModule(train, batch_size=4, num_workers=0, input_configs=LABEL, **options)


def damaged_sets(folder, count):
    """Write so many sets of ten samples, the first of each without its header; return their paths."""
    paths = []
    for number in range(count):
        write_shards(({"__key__": f"{n:04d}", "cls": b"a"} for n in range(10)), folder / str(number))
        tar = folder / str(number) / "000000.tar"
        tar.write_bytes(b"\xa5" * 512 + tar.read_bytes()[512:])
        paths.append(str(folder / str(number)))
    return paths


@pytest.mark.filterwarnings("ignore:left out of")
def test_shards_that_are_too_damaged_stop_the_run_before_the_first_step(tmp_path):
    paths = damaged_sets(tmp_path, 21)
    data_module_of(paths[:20])  # too few to judge by
    with pytest.raises(
        ValueError, match=r"data\.train: about 21 of 210 samples are damaged.*damaged: 21 \(byte 0, byte 0"
    ):
        data_module_of(paths)
    with pytest.raises(ValueError, match=r"data\.val: about 21"):
        data_module_of(paths[:1], val=paths)
    data_module_of(paths, max_bad_fraction=0.2)


@pytest.mark.filterwarnings("ignore:left out of")
def test_damaged_and_undecodable_samples_are_judged_together(tmp_path):
    data = data_module_of(damaged_sets(tmp_path, 20), max_bad_fraction=0.15)  # a tenth is damaged
    many = {"cut": [f"{n}.jpg" for n in range(60)]}
    data.consumed(Batch({}, {}, [], cursor=2000, skipped=many))  # 60 + 222 of 2222
    with pytest.raises(ValueError, match=r"120 of 2000 samples could not be decoded, 222 more were damaged"):
        data.consumed(Batch({}, {}, [], cursor=2000, skipped=many))


@pytest.mark.filterwarnings("ignore:left out of")
def test_a_shard_that_is_no_tar_counts_as_much_as_the_others_hold(tmp_path):
    write_shards(({"__key__": f"{n:04d}", "cls": b"a"} for n in range(60)), tmp_path, max_samples=30)
    (tmp_path / "000001.tar").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"about 30 of 60 samples are damaged.*not_a_tar: 1 \(.*000001\.tar"):
        data_module_of(str(tmp_path))


def test_a_source_that_the_model_cannot_use_is_refused_by_name(tmp_path, shards):
    from datamodules.mixture import MixtureSource

    write_shards([{"__key__": "0", "txt": b"x"}], tmp_path / "texts")
    train = {"labels": MixtureSource(str(shards)), "texts": MixtureSource([str(tmp_path / "texts")])}
    with pytest.raises(ValueError, match=r"data\.train: .*texts.* has no sample that the model can use"):
        data_module_of(train)


def test_a_mixture_has_its_weights_whatever_the_sizes(tmp_path):
    from datamodules.mixture import MixtureSource

    for name, count in (("small", 3), ("large", 50)):
        write_shards(({"__key__": f"{name}{n}", "cls": b"a"} for n in range(count)), tmp_path / name)
    train = {"x": MixtureSource(str(tmp_path / "small"), 3), "y": MixtureSource(str(tmp_path / "large"), 1)}
    keys = [
        k for batch in itertools.islice(data_module_of(train).train_dataloader(), 250) for k in batch.keys
    ]
    assert sum(key.startswith("small") for key in keys) == 750


def test_urls_that_do_not_fit_the_cache_are_refused_unless_few_are_read_at_a_time(tmp_path):
    import fsspec

    from datamodules.samples import Cache

    write_shards(({"__key__": str(n), "cls": b"a"} for n in range(40)), tmp_path / "there", max_samples=4)
    for tar in (tmp_path / "there").glob("*.tar"):
        with fsspec.open(f"memory://cache-test/{tar.name}", "wb") as file:
            file.write(tar.read_bytes())
    urls = "memory://cache-test/{000000..000009}.tar"
    size = (tmp_path / "there" / "000000.tar").stat().st_size
    cache = Cache(str(tmp_path / "cache"), max_bytes=4 * size)
    with pytest.raises(
        ValueError, match=r"would be fetched again and again; raise it, or set data\.shuffle_shards"
    ):
        data_module_of(urls, cache=cache)
    data = data_module_of(urls, cache=cache, shuffle_shards=2)
    keys = [key for batch in itertools.islice(data.train_dataloader(), 10) for key in batch.keys]
    assert sorted(map(int, keys)) == list(range(40))

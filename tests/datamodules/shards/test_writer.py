"""Tars are what webdataset writes, under their names only when whole."""

import errno
import io
import os

import pytest

from datamodules.shards.index import read_index
from datamodules.shards.whole import DiskFullError, whole, write_whole
from datamodules.shards.writer import write_shard, write_shards

SAMPLES = [
    {"__key__": f"sample-{n}", "txt": b"x" * size, "a.json": b"{}"}
    for n, size in enumerate([0, 1, 511, 512, 513])
]


def test_a_shard_is_what_webdataset_writes_byte_for_byte(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    expected = io.BytesIO()
    with webdataset.TarWriter(expected, mtime=0, user="root", group="root", encoder=False) as writer:
        for sample in SAMPLES:
            writer.write(dict(sample))
    shard = write_shard(SAMPLES, tmp_path / "000000.tar")
    assert (tmp_path / "000000.tar").read_bytes() == expected.getvalue()
    assert shard["bytes"] == len(expected.getvalue())


@pytest.mark.parametrize("key", ["k" * 96, "k" * 97, "k" * 400, "folder/" * 30 + "k", "schön"])
def test_keys_of_any_length_are_read_back(tmp_path, key):
    write_shard([{"__key__": key, "txt": b"text"}, {"__key__": "next", "txt": b"more"}], tmp_path / "0.tar")
    index = read_index(tmp_path / "0.tar")
    assert list(index.keys) == [key, "next"] and not index.left_out


def test_a_full_disk_leaves_no_half_file_and_keeps_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"before")

    def fsync(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DiskFullError, match=r"no room for .*file of 3,000 bytes"):
        write_whole(path, b"x" * 3000)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"]


def test_an_error_of_another_kind_passes_as_it_is(tmp_path):
    with pytest.raises(KeyError), whole(tmp_path / "file") as file:
        file.write(b"half")
        raise KeyError("mine")
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "no/folder", b"")
    assert list(tmp_path.iterdir()) == []


def test_shards_before_a_full_disk_are_whole(tmp_path, monkeypatch):
    synced = []

    def fsync(descriptor):
        synced.append(descriptor)
        if len(synced) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DiskFullError):
        write_shards(SAMPLES, tmp_path, max_samples=1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["000000.tar", "000001.tar"]

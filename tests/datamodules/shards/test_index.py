"""Index and reader: every sample of a plain tar is found by position; an index is used only while it fits its tar."""

import dataclasses
import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from datamodules.shards.errors import ShardError
from datamodules.shards.index import build_index, index_path, read_index, save_index
from datamodules.shards.reader import ShardReader
from datamodules.shards.writer import write_shards


def write_tar(path, members, format=tarfile.USTAR_FORMAT):
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_members_are_grouped_by_key_wherever_they_lie(tmp_path):
    tar = write_tar(
        tmp_path / "a.tar", [("x.txt", b"1"), ("y.txt", b"2"), ("x.jpg", b"33"), ("y.JPG", b"44")]
    )
    reader = ShardReader(tar)
    assert [reader.sample(i) for i in range(2)] == [{"txt": b"1", "jpg": b"33"}, {"txt": b"2", "jpg": b"44"}]
    assert [reader.key(i) for i in range(2)] == ["x", "y"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_layouts_that_python_writes_are_all_read(tmp_path, format):
    members = [(f"shard/00{n}.txt", bytes(n)) for n in range(0, 2000, 511)]
    reader = ShardReader(write_tar(tmp_path / "a.tar", members, format))
    assert [reader.read(i, "txt") for i in range(len(reader))] == [data for _, data in members]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_name_too_long_for_its_header_is_read_whole(tmp_path, format):
    keys = [f"{'folder/' * 20}{n}" for n in range(2)]
    members = [(f"{key}.{extension}", key.encode()) for key in keys for extension in ("jpg", "txt")]
    reader = ShardReader(write_tar(tmp_path / "a.tar", members, format))
    assert [reader.key(i) for i in range(len(reader))] == keys
    assert [reader.sample(i) for i in range(2)] == [
        {"jpg": key.encode(), "txt": key.encode()} for key in keys
    ]


def test_a_chain_of_headers_that_only_describe_others_is_left_out(tmp_path):
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 6
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for _ in range(100):
            tar.addfile(name, io.BytesIO(b"o.txt\0"))
        for key in "xyz":
            tar.addfile(tarfile.TarInfo(f"{key}.txt"))
    index = build_index(tmp_path / "a.tar")
    assert index.keys == ["y", "z"]
    assert list(index.left_out) == ["header_chain"]


def test_shards_of_the_writer_have_the_same_bytes_each_time_and_split_by_count(tmp_path):
    samples = [{"__key__": f"{n:03d}", "txt": f"text {n}".encode()} for n in range(5)]
    first, second = (
        write_shards(samples, tmp_path / "a", max_samples=2),
        write_shards(samples, tmp_path / "b", max_samples=2),
    )
    assert first == second
    assert [shard["samples"] for shard in first] == [2, 2, 1]
    reader = ShardReader(tmp_path / "a")
    assert [reader.read(i, "txt").decode() for i in range(len(reader))] == [f"text {n}" for n in range(5)]


def test_an_index_is_used_until_the_tar_changes(tmp_path, monkeypatch):
    tar = write_tar(tmp_path / "a.tar", [("x.txt", b"1")])
    read_index(tar)
    with monkeypatch.context() as patch:
        patch.setattr("datamodules.shards.index.scan", lambda *_: pytest.fail("the tar was walked again"))
        assert read_index(tar).keys == ["x"]
    write_tar(tar, [("x.txt", b"1"), ("y.txt", b"2")])
    assert read_index(tar).keys == ["x", "y"]


def test_an_index_is_used_where_it_cannot_be_kept(tmp_path, monkeypatch):
    tar = write_tar(tmp_path / "a.tar", [("x.txt", b"1")])
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(PermissionError("read-only")))
    assert read_index(tar).keys == ["x"]
    assert list(tmp_path.iterdir()) == [tar]


def rebuilt(index, path, **changes):
    """Write an index with something changed, as a stranger may."""
    save_index(dataclasses.replace(index, **changes), index_path(path), mtime_ns=path.stat().st_mtime_ns)


@pytest.mark.parametrize(
    "changes",
    [
        {"offsets": np.array([512, -1])},
        {"offsets": np.array([512, 10**9])},
        {"sizes": np.array([1, 2**62])},
        {"sizes": np.array([1, -1])},
        {"offsets": np.array([512])},
        {"kinds": np.array([0, 7], np.int32)},
        {"kinds": np.array([0, -1], np.int32)},
        {"kinds": np.array([0, 0], np.int64)},
        {"key_ends": np.array([1, 9])},
        {"key_ends": np.array([2, 1])},
        {"kind_members": [("pkl",)]},
        {"kind_members": [("TXT",)]},
        {"kind_members": [(1,)]},
        {"tar_bytes": 99},
    ],
)
def test_an_index_that_points_anywhere_else_is_made_anew(changes, tmp_path):
    tar = write_tar(tmp_path / "a.tar", [("x.txt", b"1"), ("y.txt", b"2")])
    rebuilt(build_index(tar), tar, **changes)
    index = read_index(tar)
    assert [index.find(place, "txt") for place in range(2)] == [(512, 1), (1536, 1)]


def test_threads_that_index_one_tar_at_once_all_get_it_whole(tmp_path):
    tar = write_tar(tmp_path / "a.tar", [(f"{n}.txt", b"1") for n in range(200)])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: len(read_index(tar)), range(16)))
    assert found == [200] * 16
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar", "a.tar.index"}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"version": 1}'])
def test_a_damaged_index_is_made_anew(tmp_path, content):
    tar = write_tar(tmp_path / "a.tar", [("x.txt", b"1")])
    index_path(tar).write_text(content)
    assert read_index(tar).keys == ["x"]


def test_a_count_that_disagrees_with_the_manifest_names_the_shard(tmp_path):
    tar = write_tar(tmp_path / "000000.tar", [("x.txt", b"1")])
    (tmp_path / "manifest.json").write_text('{"shards": [{"name": "000000.tar", "samples": 2}]}')
    with pytest.raises(ShardError, match="holds 1 samples, its manifest says 2") as error:
        ShardReader(tmp_path)
    assert str(tar) in str(error.value)


def test_a_shard_that_the_manifest_names_and_the_folder_lacks_is_refused(tmp_path):
    write_tar(tmp_path / "000000.tar", [("x.txt", b"1")])
    shards = [{"name": f"{n:06d}.tar", "samples": 1} for n in range(3)]
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": shards}))
    with pytest.raises(
        ShardError, match=r"lacks 2 of the 3 shards that its manifest names, the first 000001\.tar"
    ):
        ShardReader(tmp_path)


def test_more_shards_than_a_process_may_open_files_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.shards.reader.MAX_OPEN_SHARDS", 3)
    write_shards(({"__key__": str(n), "txt": str(n).encode()} for n in range(8)), tmp_path, max_samples=1)
    reader = ShardReader(tmp_path)
    assert [reader.read(n, "txt") for n in (*range(8), 0)] == [str(n).encode() for n in (*range(8), 0)]
    assert len(reader._maps) == 3


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_without_shards_is_refused_with_the_remedy(tmp_path, make):
    folder = tmp_path / "shards"
    if make:
        folder.mkdir()
    with pytest.raises(FileNotFoundError, match=r"python -m stages\.prepare"):
        ShardReader(folder)


def test_a_shard_that_differs_from_its_manifest_is_left_out_whole(tmp_path):
    [shard] = write_shards([{"__key__": "x", "txt": b"1"}], tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": [shard]}))
    assert len(ShardReader(tmp_path)) == 1
    index_path(tmp_path / shard["name"]).unlink()
    data = bytearray((tmp_path / shard["name"]).read_bytes())
    data[512] ^= 1  # of the text: no header's checksum tells
    (tmp_path / shard["name"]).write_bytes(data)
    reader = ShardReader(tmp_path)
    assert len(reader) == 0
    assert list(reader.left_out()) == ["checksum_differs"]


def test_sizes_of_a_member_are_known_without_reading_it(tmp_path):
    samples = [{"txt": b"1", "jpg": b"22"}, {"txt": b"333"}, {"jpg": b"4444"}]
    write_shards(
        ({"__key__": str(n), **members} for n, members in enumerate(samples)), tmp_path, max_samples=2
    )
    reader = ShardReader(tmp_path)
    assert reader.sizes(["txt" if "txt" in kind else None for kind in reader.kinds]).tolist() == [1, 3, 0]


def test_a_shard_that_was_cut_after_it_was_indexed_is_named(tmp_path):
    tar = write_tar(tmp_path / "a.tar", [("x.txt", b"1" * 5000)])
    reader = ShardReader(tar)
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(ShardError, match=r"a\.tar was cut after it was indexed"):
        reader.read(0, "txt")


def test_a_member_that_a_sample_lacks_is_asked_for_in_vain_with_those_it_has(tmp_path):
    reader = ShardReader(write_tar(tmp_path / "a.tar", [("x.txt", b"1"), ("y.jpg", b"2")]))
    with pytest.raises(KeyError, match=r"'y' has no member \.txt, but \.jpg"):
        reader.read(1, "txt")

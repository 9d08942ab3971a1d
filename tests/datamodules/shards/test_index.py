"""Index: every sample of a plain tar is found, and a tar that cannot be trusted is refused by name."""

import gzip
import io
import json
import tarfile

import pytest

from datamodules.shards.errors import ShardError
from datamodules.shards.index import build_index, index_path, read_index
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
            tar.addfile(name, io.BytesIO(b"y.txt\0"))
        for key in "xz":
            tar.addfile(tarfile.TarInfo(f"{key}.txt"))
    index = build_index(tmp_path / "a.tar")
    assert index.keys == ["z"]
    assert list(index.problems) == ["header_chain"]


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


def test_an_index_is_used_until_the_tar_changes(tmp_path):
    tar = write_tar(tmp_path / "a.tar", [("x.txt", b"1")])
    read_index(tar)
    index_path(tar).write_text(index_path(tar).read_text().replace('"x"', '"z"'))
    assert read_index(tar).keys == ["z"]
    write_tar(tar, [("x.txt", b"1"), ("y.txt", b"2")])
    assert read_index(tar).keys == ["x", "y"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"version": 1}'])
def test_a_damaged_index_is_made_anew(tmp_path, content):
    tar = write_tar(tmp_path / "a.tar", [("x.txt", b"1")])
    index_path(tar).write_text(content)
    assert read_index(tar).keys == ["x"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x.pkl", "unsafe_member"),
        ("x.feature.pyd", "unsafe_member"),
        ("../x.txt", "unsafe_name"),
        ("/etc/x.txt", "unsafe_name"),
        ("a/../../x.txt", "unsafe_name"),
        ("noextension", "no_key_or_extension"),
    ],
)
def test_unsafe_members_are_left_out_and_named(tmp_path, name, reason):
    index = build_index(write_tar(tmp_path / "a.tar", [(name, b"1"), ("good.txt", b"2")]))
    assert index.keys == ["good"]
    assert index.problems == {reason: [name]}


def test_links_and_devices_are_left_out(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (
            ("a.txt", tarfile.SYMTYPE),
            ("b.txt", tarfile.LNKTYPE),
            ("c.txt", tarfile.CHRTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    index = build_index(path)
    assert len(index) == 0
    assert index.problems == {"not_a_file": ["a.txt", "b.txt", "c.txt"]}


def test_a_sample_with_a_member_twice_is_left_out(tmp_path):
    index = build_index(write_tar(tmp_path / "a.tar", [("x.txt", b"1"), ("x.txt", b"2"), ("y.txt", b"3")]))
    assert index.keys == ["y"]


def damage(path, change):
    data = bytearray(path.read_bytes())
    path.write_bytes(change(data))
    return path


def resized(field):
    """Put another size field into the first header, with the checksum that belongs to it."""

    def change(data):
        data[124:136] = field.ljust(12, b"\0")
        data[148:156] = b" " * 8
        data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
        return data

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:700], "it was cut"),
        (lambda data: data[:1024], "it was cut"),
        (lambda data: b"garbage" * 200 + data, "holds no tar header at byte 0"),
        (lambda data: data[:1024] + b"\x01" * 512 + data[1024:], "holds no tar header at byte 1024"),
        (lambda data: data[:1024] + bytes(512) + data[1024:], "data behind an end mark at byte 1024"),
        (lambda data: gzip.compress(bytes(data)), "is compressed"),
        (resized(b"-0000000001"), "impossible size"),
        (resized(b"\xff" * 12), "impossible size"),
        (resized(b"77777777777"), "it was cut"),
    ],
)
def test_a_broken_tar_is_refused_by_name(tmp_path, change, message):
    tar = damage(write_tar(tmp_path / "a.tar", [("x.txt", b"1"), ("y.txt", b"2")]), change)
    with pytest.raises(ShardError, match=message) as error:
        build_index(tar)
    assert str(tar) in str(error.value)


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

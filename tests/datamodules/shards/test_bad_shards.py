"""Damaged and hostile shards: whole samples are delivered, the rest is counted, nothing is mixed and nothing fails."""

import importlib.util
import random
import re
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from datamodules.shards.index import build_index, read_index
from datamodules.shards.reader import ShardReader
from datamodules.shards.tar import Damage, walk

spec = importlib.util.spec_from_file_location("bad_shards", Path(__file__).with_name("bad_shards.py"))
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)


def delivered(reader: ShardReader) -> dict[str, dict[str, bytes]]:
    return {reader.key(position): reader.sample(position) for position in range(len(reader))}


def whole(keys) -> dict[str, dict[str, bytes]]:
    return {key: {"jpg": made.picture(key), "txt": made.caption(key)} for key in keys}


@pytest.mark.parametrize("name", made.CASES)
def test_a_bad_shard_delivers_its_whole_samples_and_counts_the_rest(name, tmp_path):
    case = made.CASES[name]()
    reader = ShardReader(case.write(tmp_path / "a.tar"))
    assert delivered(reader) == whole(case.keys)
    assert set(reader.left_out()) == set(case.reasons)
    assert all(out.count == len(out.names) > 0 for out in reader.left_out().values())


@pytest.mark.parametrize("name", made.CASES)
def test_samples_that_are_lost_count_as_bad(name, tmp_path):
    case = made.CASES[name]()
    reader = ShardReader(case.write(tmp_path / "a.tar"))
    assert reader.lost >= min(1, len(made.KEYS) - len(case.keys)) or name == "an end mark alone"
    if set(case.reasons) <= {"duplicate_member", "reserved_name", "no_key_or_extension"}:
        assert reader.lost == 0


@pytest.mark.parametrize(
    "name", ["cut in a picture", "garbage between samples", "not whole", "an error page"]
)
def test_between_two_damaged_shards_nothing_is_joined(name, tmp_path):
    """A picture that is whole stands at the end of one shard, the caption of the same key at the start of the next."""
    ends_in_half = made.GOOD + made.entry("s100.jpg", made.picture("s100"))
    starts_in_half = made.entry("s100.txt", made.caption("other")) + made.GOOD + made.END
    case = made.CASES[name]().data if name in made.CASES else b"\xa5" * 700
    (tmp_path / "0.tar").write_bytes(ends_in_half)
    (tmp_path / "1.tar").write_bytes(case)
    (tmp_path / "2.tar").write_bytes(starts_in_half)
    reader = ShardReader(tmp_path)
    for position in range(len(reader)):
        assert len({text.split(b":")[0] for text in reader.sample(position).values()}) == 1


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("../../x/s000", "x/s000"),
        ("/etc/s000", "etc/s000"),
        ("a/../../s000", "a/s000"),
        ("./s000", "s000"),
        ("C:\\windows\\s000", "windows/s000"),
        ("..\\a\\s000", "a/s000"),
        ("s\n0\x1b[31m00", "s_0_[31m00"),
        ("ключ/s000", "ключ/s000"),
        ("a" * 5000, None),
    ],
)
def test_a_hostile_key_becomes_a_label(name, label, tmp_path):
    members = [(f"{name}.jpg", b"1"), (f"{name}.txt", b"2")]
    (tmp_path / "a.tar").write_bytes(made.packed(members))
    [[key, members]] = delivered(ShardReader(tmp_path)).items()
    assert members == {"jpg": b"1", "txt": b"2"}
    assert key == label if label else len(key) <= 512
    assert not Path(key).is_absolute()
    assert ".." not in Path(key).parts


def test_keys_that_become_the_same_label_are_not_joined(tmp_path):
    (tmp_path / "a.tar").write_bytes(made.packed([("../s.jpg", b"1"), ("/s.txt", b"2"), ("s.jpg", b"3")]))
    reader = ShardReader(tmp_path)
    assert delivered(reader) == {"s": {"jpg": b"1"}}
    assert reader.left_out()["duplicate_key"].count == 2


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("seed", range(10))
def test_random_damage_mixes_nothing_and_loses_nothing_uncounted(format, seed, tmp_path):
    """Bit flips, cuts, overwritten and swapped blocks: ten trials each; 300 in all with ten seeds and three formats."""
    draw = random.Random(seed)
    names = [
        (f"folder/{k}.{e}", f(k))
        for k in made.KEYS
        for e, f in (("jpg", made.picture), ("txt", made.caption))
    ]
    sound = made.packed(names, format)
    for trial in range(10):
        data, is_silent = damaged(sound, draw)
        tar = tmp_path / f"{trial}.tar"
        tar.write_bytes(data)
        reader = ShardReader(tar)
        found = delivered(reader)
        if found.keys() != {f"folder/{key}" for key in made.KEYS}:
            assert reader.left_out()
            assert reader.lost >= 1
        for key, members in found.items() if not is_silent else ():
            assert set(members) == {"jpg", "txt"}
            for text in members.values():
                owners = Counter(
                    re.findall(rb"(s\d\d\d):(?:picture|caption)", text)
                )  # a flip may change a digit
                assert not owners or owners.most_common(1)[0][0] == key.rpartition("/")[2].encode()


def damaged(data: bytes, draw: random.Random) -> tuple[bytes, bool]:
    """Return a damaged copy, and whether no checksum of a header can show it (blocks of one kind changed places)."""
    data = bytearray(data)
    blocks = len(data) // made.BLOCK
    kind = draw.choice(["flip", "cut", "garbage", "zeros", "swap"])
    if kind == "flip":
        for _ in range(draw.randint(1, 20)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        return bytes(data), False
    if kind == "cut":
        return bytes(data[: draw.randrange(len(data))]), False
    start, count = draw.randrange(blocks - 4), draw.randint(1, 4)
    stretch = slice(start * made.BLOCK, (start + count) * made.BLOCK)
    if kind != "swap":
        data[stretch] = draw.randbytes(count * made.BLOCK) if kind == "garbage" else bytes(count * made.BLOCK)
        return bytes(data), False
    one, other = (slice(b * made.BLOCK, (b + 1) * made.BLOCK) for b in draw.sample(range(blocks), 2))
    are_alike = (data[one][257:262] == b"ustar") == (data[other][257:262] == b"ustar")
    data[one], data[other] = data[other], data[one]
    return bytes(data), are_alike


def test_an_index_of_a_damaged_shard_is_kept_with_what_it_leaves_out(tmp_path):
    tar = made.CASES["cut in a picture"]().write(tmp_path / "a.tar")
    built, read = build_index(tar), read_index(tar)
    assert read.left_out == built.left_out
    assert read.lost == built.lost == 1
    assert read.keys == built.keys


def test_a_tar_of_very_many_names_takes_no_more_than_a_moment(tmp_path):
    """Ways to make a reader quadratic: every member another extension, one key for all, all of them twice."""
    many = [made.entry(f"x.e{n}", b"") for n in range(3000)] + [
        made.entry(f"k{n}.e{n}", b"") for n in range(3000)
    ]
    (tmp_path / "a.tar").write_bytes(b"".join(many) * 2 + made.END)
    reader = ShardReader(tmp_path)
    assert len(reader) == 3000
    assert reader.left_out()["duplicate_member"].count >= 3000


@pytest.mark.parametrize("between", ["zeros", "garbage", "checksums"])
def test_a_tar_with_damage_at_every_other_block_is_read_to_its_end(between):
    """Where each place of damage costs a look at all that follows, this takes minutes."""
    header = made.header("y.txt", 0)
    bad = {"zeros": bytes(512), "garbage": b"\xa5" * 512, "checksums": header[:-1] + b"x"}[between]
    data = b"".join(made.header(f"x{n}.txt", 0) + header + bad for n in range(20_000)) + made.END
    found = [item for item in walk(data) if isinstance(item, Damage)]
    assert len(found) >= 19_999  # zeros at the end are the end

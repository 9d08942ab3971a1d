"""Paths: what names shards finds them in order, and what could do anything else is refused."""

import json

import pytest

from datamodules.shards.errors import ShardError
from datamodules.shards.paths import find_shards


@pytest.fixture
def folder(tmp_path):
    for number in range(12):
        (tmp_path / f"{number:03d}.tar").touch()
    (tmp_path / "000.tar.index").touch()
    return tmp_path


def names(found):
    return [path.name for path in found]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", [f"{number:03d}.tar" for number in range(12)]),
        ("003.tar", ["003.tar"]),
        ("00*.tar", [f"00{number}.tar" for number in range(10)]),
        ("{008..010}.tar", ["008.tar", "009.tar", "010.tar"]),
        ("{000,011}.tar", ["000.tar", "011.tar"]),
        ("0{0,1}1.tar", ["001.tar", "011.tar"]),
    ],
)
def test_a_folder_a_tar_a_glob_and_braces_name_shards_in_order(folder, pattern, expected):
    assert names(find_shards(f"{folder}/{pattern}")) == expected


def test_a_list_of_paths_is_read_in_its_order(folder):
    assert names(find_shards([folder / "003.tar", f"{folder}/{{001..002}}.tar"])) == [
        "003.tar",
        "001.tar",
        "002.tar",
    ]


@pytest.mark.parametrize("suffix", [".txt", ".list", ".json"])
def test_a_file_lists_shards_relative_to_itself(folder, suffix):
    entries = ["004.tar", "{001..002}.tar", str(folder / "005.tar"), "https://example.org/{0..1}.tar"]
    text = json.dumps(entries) if suffix == ".json" else "# shards\n" + "\n".join(entries) + "\n\n"
    (folder / f"train{suffix}").write_text(text)
    found = find_shards(folder / f"train{suffix}")
    assert names(found[:4]) == ["004.tar", "001.tar", "002.tar", "005.tar"]
    assert found[4:] == ["https://example.org/0.tar", "https://example.org/1.tar"]


@pytest.mark.parametrize(
    "url",
    [
        "pipe:touch marker; cat a.tar",
        "PIPE:cat a.tar",
        "pipe://cat a.tar",
        "ssh://host/a.tar",
        "gopen:a.tar",
        "zip://a.tar::https://example.org/b.zip",
        "simplecache::https://example.org/a.tar",
        "http:a.tar",
    ],
)
@pytest.mark.parametrize("place", ["alone", "in a list", "in a file"])
def test_what_is_no_plain_url_is_refused_and_nothing_runs(folder, url, place, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "train.json").write_text(json.dumps(["001.tar", url]))
    given = {"alone": url, "in a list": ["001.tar", url], "in a file": "train.json"}[place]
    with pytest.raises(ShardError, match="is not a plain URL"):
        find_shards(given)
    assert not (folder / "marker").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}', "is no list of shards"),
        ("[1, 2]", "is no list of shards"),
        ('["a\\u0000.tar"]', "is no list of shards"),
        ("[", "is not readable"),
        ("[" * 100_000, "is not readable"),
        ("\udcff", "is not readable"),
        ('["train.json"]', "is a list named by another list"),
    ],
)
def test_a_file_that_is_no_list_is_refused_by_name(folder, content, message):
    (folder / "train.json").write_text(content, errors="surrogateescape")
    with pytest.raises(ShardError, match=message) as error:
        find_shards(folder / "train.json")
    assert "train.json" in str(error.value)


def test_braces_that_name_a_shard_that_is_not_there_name_it(folder):
    with pytest.raises(FileNotFoundError, match=r"012\.tar is not there, one of .*copy the shards whole"):
        find_shards(f"{folder}/{{010..013}}.tar")


def test_braces_that_name_endlessly_many_shards_are_refused_at_once(folder):
    for pattern in (
        "{0..999999999999}.tar",
        "{0..9999}{0..9999}.tar",
        "http://example.org/{0..99999999}.tar",
    ):
        with pytest.raises(ShardError, match="expected at most"):
            find_shards(f"{folder}/{pattern}" if "http" not in pattern else pattern)


def test_an_empty_list_is_refused(folder):
    (folder / "train.txt").write_text("# none\n")
    with pytest.raises(FileNotFoundError, match="lists no shard"):
        find_shards(folder / "train.txt")

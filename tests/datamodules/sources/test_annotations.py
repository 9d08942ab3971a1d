"""Reading annotation files: lines, CSV, JSON of any size; and what none of them can do to a run."""

import csv
import gzip
import io
import json
import random
from pathlib import Path

import pytest

from datamodules.sources import annotations, json_records
from datamodules.sources.annotations import (
    BadRecord,
    estimate_count,
    media_below,
    read_lines,
    read_rows,
)
from datamodules.sources.json_records import read_records
from datamodules.sources.source import Dropped, Sample

COLUMNS = ("id", "text")


def reasons(records):
    return [str(record) for _, record in records if isinstance(record, BadRecord)]


def good(records):
    return [record for _, record in records if not isinstance(record, BadRecord)]


class TestLines:
    def test_a_line_beyond_the_limit_costs_itself_alone(self, tmp_path, monkeypatch):
        monkeypatch.setattr(annotations, "MAX_LINE_BYTES", 8)
        (tmp_path / "a.txt").write_bytes(b"short\n" + b"x" * 50 + b"\n1234567\n" + b"y" * 8)
        records = list(read_lines(tmp_path / "a.txt"))
        assert records == [
            ("a.txt:1", "short"), records[1], ("a.txt:3", "1234567"), records[3]
        ]  # fmt: skip
        assert reasons(records) == ["line too long"] * 2

    def test_marks_blank_lines_and_windows_ends_are_left_out(self, tmp_path):
        (tmp_path / "a.txt").write_bytes("\ufeffone\r\n\r\n \ntwo é".encode())
        assert good(read_lines(tmp_path / "a.txt")) == ["one", "two é"]

    @pytest.mark.parametrize(
        "damage", [lambda data: data[:-20], lambda data: data[:30] + b"\xff" * 9 + data[39:]]
    )
    def test_what_can_be_unpacked_of_a_damaged_gzip_is_read(self, tmp_path, damage):
        lines = [f"{random.random()}" for _ in range(2000)]
        (tmp_path / "a.gz").write_bytes(damage(gzip.compress("\n".join(lines).encode())))
        records = list(read_lines(tmp_path / "a.gz"))
        assert reasons(records) == ["rest of the file cannot be read"]
        assert set(good(records)) <= set(lines)

    def test_a_count_is_about_right(self, tmp_path):
        (tmp_path / "a.gz").write_bytes(gzip.compress(b"".join(b"%d\n" % n for n in range(500_000))))
        assert estimate_count(tmp_path / "a.gz") == pytest.approx(500_000, rel=0.3)


class TestRows:
    def rows(self, tmp_path, text, **arguments):
        (tmp_path / "a.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        return list(read_rows(tmp_path / "a.csv", COLUMNS, **arguments))

    def test_rows_are_what_the_standard_library_reads(self, tmp_path):
        rng = random.Random(0)
        table = [["".join(rng.choices('ab ,"é', k=6)).strip() for _ in COLUMNS] for _ in range(500)]
        table = [row for row in table if all(row)] + [["two\nlines", 'and "three"\nmore\nhere']]
        file = io.StringIO(newline="")
        csv.writer(file).writerows([COLUMNS, *table])
        assert [list(row.values()) for row in good(self.rows(tmp_path, file.getvalue()))] == table

    def test_a_bad_row_costs_itself_alone(self, tmp_path):
        text = b'id,text\n1,a\n2\n3,"never closed\n4,\xff\n5,b,c\n6,"x"y\n7,z\n'
        records = self.rows(tmp_path, text)
        assert [row["id"] for row in good(records)] == ["1", "7"]
        assert reasons(records) == [
            "row with another number of fields", "quote without an end", "line is not UTF-8",
            "row with another number of fields", "malformed row",
        ]  # fmt: skip

    def test_a_field_larger_than_the_limit_costs_itself_alone(self, tmp_path):
        records = self.rows(tmp_path, f"id,text\n1,{'x' * 200_000}\n2,b\n")
        assert ([row["id"] for row in good(records)], reasons(records)) == (["2"], ["malformed row"])

    def test_a_header_without_the_columns_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"a\.csv lacks the columns text; found id, name"):
            self.rows(tmp_path, "id,name\n1,a\n")
        with pytest.raises(ValueError, match="no header"):
            self.rows(tmp_path, "")


class TestRecords:
    @pytest.mark.parametrize("chunk_bytes", [1, 3, 64, 1 << 20])
    def test_records_are_what_the_standard_library_reads(self, tmp_path, monkeypatch, chunk_bytes):
        monkeypatch.setattr(json_records, "CHUNK_BYTES", chunk_bytes)
        listed = [{"a": [1, -2.5e-3, None, True]}, 'é"]}\\ud83d', 12345, [[], {}], 1e30, -0.0]
        content = {
            "info": {"x": [1, {"y": "]"}]},
            "n": 17,
            "wanted": listed,
            "after": [1],
            "pairs": {"k": 1, "l": []},
        }
        for indent in (None, 1):
            (tmp_path / "a.json").write_text(
                json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8"
            )
            assert list(read_records(tmp_path / "a.json", "wanted")) == listed
            assert list(read_records(tmp_path / "a.json", "pairs")) == [("k", 1), ("l", [])]
            assert list(read_records(tmp_path / "a.json")) == list(content.items())
        (tmp_path / "a.json").write_text(json.dumps(listed))
        assert list(read_records(tmp_path / "a.json")) == listed

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "ends at character 0"),
            ('{"wanted": [1, 2', "ends at character 16"),
            ('{"wanted": [1 2]}', "has '2' instead of"),
            ('{"wanted": [tru]}', "cannot be read"),
            ('{"wanted": [1]} x', "has 'x' behind its end"),
            ('{"wanted": [1]', "ends"),
            ('{"other": 1}', "holds no `wanted`; found other"),
            ('{"wanted": [' + "[" * 100_000, "nested too deeply"),
            ('{"a": ' * 100_000, "nested too deeply"),
            ('{"wanted": [' + "1" * 10_000 + "]}", "cannot be read"),
            ("{wanted: [1]}", "has 'w' instead of"),
        ],
    )
    def test_what_is_no_json_is_refused_with_its_place(self, tmp_path, text, message):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=message) as error:
            list(read_records(tmp_path / "a.json", "wanted"))
        assert "a.json" in str(error.value)

    def test_a_record_without_end_is_refused_before_memory_runs_out(self, tmp_path, monkeypatch):
        monkeypatch.setattr(json_records, "MAX_RECORD_CHARACTERS", 1000)
        monkeypatch.setattr(json_records, "CHUNK_BYTES", 100)
        (tmp_path / "a.json").write_text('["' + "x" * 100_000)
        with pytest.raises(ValueError, match="more than 1000 characters"):
            list(read_records(tmp_path / "a.json"))

    def test_memory_is_that_of_a_window(self, tmp_path):
        import tracemalloc

        with (tmp_path / "a.json").open("w") as file:
            file.write('{"images": [')
            file.writelines(
                f'{{"id": {number}, "file_name": "{number:012d}.jpg"}},\n' for number in range(200_000)
            )
            file.write('{"id": 0}]}')
        tracemalloc.start()
        assert sum(1 for _ in read_records(tmp_path / "a.json", "images")) == 200_001
        assert tracemalloc.get_traced_memory()[1] < (tmp_path / "a.json").stat().st_size
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("../secret.jpg", "image lies outside its folder"),
        ("/etc/passwd", "image lies outside its folder"),
        ("link.jpg", "image lies outside its folder"),
        ("a\0.jpg", "image not found"),
        ("\ud800.jpg", "image not found"),
        ("x" * 5000, "image not found"),
        ("", "image not found"),
        ("notes.txt", "image not found"),
        ("https://host/a.jpg", "image is a URL"),
        (["a.jpg"], "image is not a path"),
        (None, "image is not a path"),
    ],
)
def test_a_path_leads_nowhere_but_to_media_below_the_root(tmp_path, given, reason):
    root = tmp_path.resolve() / "root"
    root.mkdir()
    for file in (tmp_path / "secret.jpg", root / "notes.txt", root / "a.jpg"):
        file.write_bytes(b"x")
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    assert media_below(root, "./a.jpg", frozenset({"jpg"}), "image") == root / "a.jpg"
    with pytest.raises(BadRecord, match=f"^{reason}$"):
        media_below(root, given, frozenset({"jpg"}), "image")


def corrupted(data, rng):
    """Return the bytes of an annotation file, damaged in one of the ways that files are."""
    place = rng.randrange(len(data) + 1)
    length = rng.choice((1, 4, 40, 400))
    ways = (
        lambda: data[:place],
        lambda: data[:place] + data[place + length :],
        lambda: data[:place] + rng.randbytes(length) + data[place + length :],
        lambda: data[:place] + b"\0" * length + data[place:],
        lambda: data[:place] + data,
        lambda: data[:place] + b"x" * 300_000 + data[place:],
        lambda: data[:place] + b'"' + data[place:],
        lambda: data[:place] + b"[" * 50_000 + data[place:],
        lambda: data[:place] + b"\n" * length + data[place:],
        lambda: data.replace(b",", b";"),
        lambda: data.replace(b'"', b"'"),
        lambda: data.decode("latin-1").encode("utf-16"),
        lambda: swapped(data, rng),
        lambda: swapped(data, rng),
        lambda: swapped(data, rng),
    )
    return rng.choice(ways)()


def swapped(data, rng):
    """Return the same JSON with some values put for others of another type; other files with fields swapped."""
    strange = (
        None,
        0,
        -1,
        1e308,
        True,
        "",
        "x",
        "../../etc/passwd",
        "\0",
        "\ud800",
        [],
        {},
        [[]],
        {"a": None},
        10**40,
    )

    def changed(value):
        if rng.random() < 0.1:
            return rng.choice(strange)
        if isinstance(value, list):
            return [changed(each) for each in value]
        return {key: changed(each) for key, each in value.items()} if isinstance(value, dict) else value

    try:
        return json.dumps(changed(json.loads(data))).encode()
    except ValueError:
        fields = data.split(b",")
        rng.shuffle(fields)
        return b",".join(fields)


def test_damaged_annotations_are_dropped_or_refused_and_never_a_crash(any_layout):
    source, folder, names = any_layout
    whole = {name: (folder / name).read_bytes() for name in names}
    rng = random.Random(str(type(source)))
    dropped = refused = 0
    for _ in range(60):
        name = rng.choice(names)
        (folder / name).write_bytes(corrupted(whole[name], rng))
        try:
            source.check()
            assert len(source) >= 0
            for item in source:
                made = source.expand(item) if isinstance(item, Sample) and "tar" in item.members else [item]
                dropped += sum(isinstance(each, Dropped) for each in made)
        except (ValueError, FileNotFoundError) as error:
            refused += 1
            assert str(Path(source.path)) in str(error), error
        (folder / name).write_bytes(whole[name])
    assert dropped or refused

"""The report as `prepare` writes it: there after a run, over all its sets, and made anew where it is missing."""

import io
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from stages.cli import command
from stages.prepare.prepare import prepare


def jpeg(hue: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), (hue, 0, 0)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def config(tmp_path) -> Path:
    """Two sets: one with a duplicate, a broken picture and an empty text, and one of lines."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, data in {"a": jpeg(9), "b": jpeg(99), "c": jpeg(9), "d": b"<html>"}.items():
        (raw / f"{name}.jpg").write_bytes(data)
    (raw / "e.txt").write_text(" ")
    (tmp_path / "lines.txt").write_text("one line\nanother\n")
    cleaning, sources = "datamodules.preparation.cleaning", "datamodules.sources"
    filters = [
        {"class_path": f"{cleaning}.{name}"}
        for name in ("media.Undecodable", "texts.EmptyText", "duplicates.ExactDuplicates")
    ]
    folder = {"class_path": f"{sources}.folder.Folder", "init_args": {"path": str(raw)}}
    lines = {
        "class_path": f"{sources}.text_lines.TextLines",
        "init_args": {"path": str(tmp_path / "lines.txt")},
    }
    sets = {"scenes": {"source": folder, "filters": filters, "max_samples": 1}, "text": {"source": lines}}
    path = tmp_path / "prepare.yaml"
    path.write_text(yaml.safe_dump({"out": str(tmp_path / "out"), "sets": sets}))
    return path


def test_a_run_leaves_a_report_over_all_its_sets_and_says_where(config, tmp_path, capsys):
    command(prepare, args=["--config", str(config)])
    report = tmp_path / "out/report.html"
    assert str(report) in capsys.readouterr().out.replace("\n", "")
    page = report.read_text(encoding="utf-8")
    assert {"summary", "scenes", "text"} <= set(re.findall(r'<section id="([^"]*)"', page))
    assert set(re.findall(r'data-tab="([^"]*)"', page)) == {
        "exact duplicate · 1",
        "undecodable image · 1",
        "empty text · 1",
    }
    assert page.count('class="exhibit pair"') == 1 and "is not in the shards" not in page
    assert "one line" in page and 'aria-label="Histogram of image: width"' in page


def test_a_report_that_is_missing_is_made_without_preparing_anything_anew(config, tmp_path):
    command(prepare, args=["--config", str(config)])
    report, shard = tmp_path / "out/report.html", tmp_path / "out/scenes/000000.tar"
    report.unlink()
    written = shard.stat().st_mtime_ns
    command(prepare, args=["--config", str(config)])
    assert report.is_file() and shard.stat().st_mtime_ns == written


def test_a_single_set_has_its_report_in_its_own_folder(config, tmp_path):
    one = ["--one.source", "TextLines", "--one.source.path", str(tmp_path / "lines.txt")]
    for _ in range(2):  # the second finds the set prepared, report or not
        command(prepare, args=["--out", str(tmp_path / "lines"), *one])
    assert (tmp_path / "lines/report.html").is_file()

"""The report of `prepare`: it shows what was kept and dropped, needs no network, runs nothing that strangers wrote."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from datamodules.preparation.exhibits.exhibits import FILE, Exhibits
from datamodules.preparation.exhibits.measures import measure
from datamodules.shards.writer import write_shards
from datamodules.sources.source import Dropped, Sample
from stages.prepare.report import write_report

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def picture(hue: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), (hue, 90, 200)).save(file, "JPEG")
    return file.getvalue()


def sound() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(4000) / 9), 16_000, format="FLAC")
    return file.getvalue()


def prepared(folder: Path, dropped: list[Dropped] | None = None, **more: object) -> Path:
    """Write a set of four samples as `prepare` leaves it, with examples of them and of what was dropped."""
    kept = [
        Sample(
            f"k{n}", {"jpg": picture(60 * n), "flac": sound(), "txt": f"{EVIL} {n}".encode()}, f"{n}{EVIL}"
        )
        for n in range(4)
    ]
    exhibits = Exhibits()
    for sample in kept:
        exhibits.keep(sample, measure(sample))
    counts, names = {}, {}
    for one in dropped or []:
        exhibits.drop(one)
        counts[one.reason] = counts.get(one.reason, 0) + 1
        names.setdefault(one.reason, []).append(one.name)
    shards = write_shards(({"__key__": one.key, **one.members} for one in kept), folder, max_samples=3)
    manifest = {
        "version": 1, "set": folder.name, "samples": 4, "shards": shards, "members": {"flac": 4, "jpg": 4, "txt": 4},
        "dropped": counts, "dropped_names": names, "made_from": {"source": {"path": EVIL}}, **more,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / FILE).write_text(json.dumps(exhibits.to_plain()))
    return folder


DROPPED = [
    Dropped(f"copy {EVIL}", "exact duplicate", Sample("c", {"jpg": picture(180)}, "c"), twin="k3"),
    Dropped("lost twin", "exact duplicate", Sample("d", {"jpg": picture(0)}, "d"), twin="gone"),
    Dropped("broken", "undecodable image", Sample("e", {"jpg": b"<html>"}, "e")),
    Dropped(f"only a name {EVIL}", "unreadable file"),
]


class Reader(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and whether all are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(tmp_path: Path, *folders: Path, **seconds: float) -> str:
    path = write_report(tmp_path, list(folders), seconds)
    assert path == tmp_path / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture
def page(tmp_path) -> str:
    return page_of(tmp_path, prepared(tmp_path / "scenes", DROPPED), prepared(tmp_path / "other"), scenes=2.5)


def test_nothing_that_strangers_wrote_becomes_an_element(page):
    found = Reader(page)
    assert found.open == []
    assert [name for name, _ in found.elements].count("script") == 1
    assert {
        attribute for _, given in found.elements for attribute in given if attribute.startswith("on")
    } == set()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_page_asks_nothing_of_a_network(page):
    sources = [
        value
        for _, given in Reader(page).elements
        for name, value in given.items()
        if name in ("src", "href")
    ]
    assert all(
        source.startswith(("data:image/jpeg;base64,", "data:audio/flac;base64,", "#")) for source in sources
    )
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src 'none'" in page


def test_figures_are_those_of_the_manifests(page):
    assert ">8<small>" in page and ">4<small>" in page  # kept and dropped, over both sets
    assert "4 of 8 samples are in the shards: 50 %" in page
    assert "4 of 4 samples are in the shards: 100 %" in page
    assert ">2.5</td>" in page and ">–</td>" in page  # the set that was there already took no time


def test_each_kind_of_dropped_has_its_tab_the_most_frequent_first(page):
    assert re.findall(r'data-tab="([^"]*)"', page) == [
        "exact duplicate · 2",
        "undecodable image · 1",
        "unreadable file · 1",
    ]


def test_a_duplicate_stands_beside_what_it_resembles_as_it_is_in_the_shards(page):
    pair = re.search(r'<div class="exhibit pair">(.*?)<div class="exhibit pair">', page, re.DOTALL)[0]
    both = re.findall(r'class="mark (\w+)"|<bdi>([^<]*)</bdi>', page[page.index('class="exhibit pair"') :])[
        :8
    ]
    assert [mark for mark, _ in both if mark] == ["kept", "dropped", "kept", "dropped"]
    assert "gone is not in the shards" in page
    assert pair.count("data:image/jpeg") >= 1
    assert ("", "k3") in both  # the twin, though it is in the second shard


def test_what_cannot_be_decoded_is_said_to_be_so(page):
    assert "<span>undecodable</span>" in page


def test_every_measure_has_a_histogram(page):
    titles = re.findall(r'aria-label="Histogram of ([^"]*)"', page)
    assert len(titles) == 2 * 8 and titles[0] == "text: characters" and "sound: length" in titles


def test_two_reports_of_the_same_sets_are_the_same_bytes(page, tmp_path):
    assert page_of(tmp_path, tmp_path / "scenes", tmp_path / "other", scenes=2.5) == page


def test_the_page_is_small_however_large_the_set(tmp_path):
    many = [
        Dropped(f"d{n}", f"reason {n % 50}", Sample("d", {"jpg": picture(n % 250)}, "d")) for n in range(600)
    ]
    assert len(page_of(tmp_path, prepared(tmp_path / "scenes", many))) < 2_000_000


def test_one_set_needs_no_summary(tmp_path):
    assert '<section id="summary"' not in page_of(tmp_path, prepared(tmp_path / "scenes"))


# ---- what is not there


def test_a_set_without_examples_is_reported_from_its_manifest(tmp_path):
    folder = prepared(tmp_path / "scenes", DROPPED)
    (folder / FILE).unlink()
    page = page_of(tmp_path, folder)
    assert "exact duplicate · 2" in page and "only a name" in page


@pytest.mark.parametrize("name", [FILE, "alignment.json"])
@pytest.mark.parametrize("content", ["{", "[]", '{"version": 1, "clips": [{"name": 3}]}', '"\\ud800"'])
def test_what_cannot_be_read_is_noted_and_fails_nothing(tmp_path, name, content):
    folder = prepared(tmp_path / "scenes", DROPPED)
    (folder / name).write_text(content)
    assert f"Not shown: {name}: " in page_of(tmp_path, folder)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="Prepare it first"):
        write_report(tmp_path, [tmp_path / "empty"])


def test_an_example_s_uri_of_another_kind_is_not_put_into_the_page(tmp_path):
    folder = prepared(tmp_path / "scenes")
    content = (folder / FILE).read_text()
    (folder / FILE).write_text(
        content.replace("data:image/jpeg", "javascript:alert").replace("data:audio", "http:")
    )
    page = page_of(tmp_path, folder)
    assert "javascript:" not in page and "http:/" not in page


# ---- alignment


def clip(name: str, *, known: bool, cues: int = 5) -> dict:
    listed = [
        {
            "before_s": 2.0 * n + 1.5,
            "before_end_s": 2.0 * n + 2.5,
            "after_s": 2.0 * n + 0.25,
            "after_end_s": 2.0 * n + 1.25,
            "residual_ms": 40.0,
        }
        for n in range(cues)
    ]
    if known:
        listed = [cue | {"true_s": cue["after_s"] - 0.002} for cue in listed]
    errors = {"before_ms": {"median": 1252.0}, "after_ms": {"median": 2.0}} if known else {}
    loudness = {"seconds": 20.0, "curve": [0, 99, 50]}
    about = {"offset_s": -1.25, "rate": 1.04, "residual_ms": 40.0, "loudness": loudness}
    return {"name": name, **about, "cues": listed, **errors}


def aligned(tmp_path: Path, content: dict) -> str:
    folder = prepared(tmp_path / "videos")
    (folder / "alignment.json").write_text(json.dumps(content))
    return page_of(tmp_path, folder)


def test_a_clip_tells_offset_rate_residual_and_error_and_has_a_dot_for_each_cue_twice(tmp_path):
    page = aligned(tmp_path, {"clips": [clip(f"a{EVIL}.mp4", known=True)]})
    for figure in ("-1.25 s", "1.0400", "40 ms", "1252 → 2.0 ms"):
        assert f"<dd>{figure}</dd>" in page
    drawn = page[page.index('aria-label="How far the cues of') :].partition("</svg>")[0]
    assert drawn.count("<circle") == 10
    assert Reader(page).open == []


def test_a_clip_without_known_times_and_one_without_cues_are_shown(tmp_path):
    page = aligned(tmp_path, {"clips": [clip("a", known=False), clip("b", known=True, cues=0)]})
    assert "cues of a are off" in page and "cues of b" not in page and "Not shown" not in page


def test_methods_are_compared_in_a_table_where_they_were(tmp_path):
    comparison = {"speech": {"median_ms": 0.4, "is_default": True}, "timestamps": {"median_ms": 1146.2}}
    page = aligned(tmp_path, {"clips": [clip("a", known=True)], "comparison": comparison})
    rows = re.findall(r"<tr><td>(speech|timestamps)</td>(.*?)</tr>", page)
    assert [re.findall(r">([^<]+)</td>", cells) for _, cells in rows] == [["0.4", "True"], ["1,150", "–"]]


def test_of_many_clips_those_that_fit_worst_are_shown(tmp_path):
    clips = [clip(f"clip{n}", known=True) | {"residual_ms": float(n)} for n in range(40)]
    page = aligned(tmp_path, {"clips": clips})
    assert page.count('class="card clip"') == 24
    assert "clip39" in page and "clip15<" not in page and "24 of 40 clips" in page

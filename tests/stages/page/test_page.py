"""The page of a report: nothing from elsewhere, no script but its own, and whatever strangers wrote is text."""

import base64
import hashlib
import re

import numpy as np
import pytest

from stages.page import page
from stages.page.charts import nice_ticks
from stages.page.html import Html, tag


def test_markup_escapes_text_and_keeps_elements():
    inner = tag("b", "a < b")
    assert tag("p", inner, ["&"], title='"') == '<p title="&quot;"><b>a &lt; b</b>&amp;</p>'


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 0.013), (-3.2, 7), (0, 1), (0, 998)])
def test_ticks_are_even_and_span_what_is_drawn(low, high):
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 7 and ticks[0] <= low and ticks[-1] >= high
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])


@pytest.fixture
def written(tmp_path) -> str:
    style = tmp_path / "own.css"
    style.write_text(".mine { color: red; }")
    sections = {
        "A <b>": tag("p", "<script>alert(1)</script>"),
        "a b": Html("<p>two</p>"),
        "…": Html("<p>three</p>"),
    }
    page.write(
        page.render("T", Html("<h1>H</h1>"), sections, tag("footer"), style), tmp_path / "out/report.html"
    )
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["report.html"]
    return (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_the_policy_allows_the_page_s_own_script_by_its_hash_and_nothing_from_elsewhere(written):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', written)[1]
    [script] = re.findall(r"<script>(.*?)</script>", written, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert not re.search(r"script-src[^;]*unsafe", policy) and "http" not in policy


def test_each_section_can_be_linked_to_even_if_two_titles_are_alike(written):
    links = re.findall(r'href="#([^"]*)"', written)
    assert links == ["top", "a-b", "a-b-1", "part"]
    assert re.findall(r'<section id="([^"]*)"', written) == links[1:]
    assert "A &lt;b&gt;" in written and ".mine { color: red; }" in written


def test_what_utf_8_lacks_is_written_as_a_question_mark(tmp_path):
    page.write(Html("caf\udce9"), tmp_path / "p.html")
    assert (tmp_path / "p.html").read_text() == "caf?"

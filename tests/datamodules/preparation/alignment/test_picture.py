"""The picture of a clip's alignment is SVG that any viewer reads, whatever the subtitles say."""

from xml.etree import ElementTree

import numpy as np
import pytest

from datamodules.preparation.alignment.picture import loudness_curve, plot_alignment

CUE = {"before_s": 3.0, "before_end_s": 4.0, "after_s": 1.0, "after_end_s": 2.0, "residual_ms": -5.0}


def clip(**changes):
    return {"name": "a & b", "offset_s": -2.0, "rate": 1.0, "residual_ms": 5.0, "cues": [CUE | changes]}


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a\x00\x0b\ud800b", "ä & ö"])
def test_text_of_strangers_is_shown_and_nothing_else(text):
    root = ElementTree.fromstring(plot_alignment(clip(text=text)))
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {
        "svg",
        "text",
        "rect",
        "title",
        "line",
        "circle",
        "polygon",
    }


def test_a_cue_is_drawn_where_it_was_and_where_it_is():
    root = ElementTree.fromstring(
        plot_alignment(clip(text="x") | {"loudness": loudness_curve(np.zeros(160_000))})
    )
    before, after = (float(box.get("x")) for box in root.iter("{http://www.w3.org/2000/svg}rect"))
    assert before - after == pytest.approx(2 * (900 - 80) / 10, abs=0.2)


def test_error_is_drawn_where_the_truth_is_known_else_the_residual():
    def dot(**changes):
        root = ElementTree.fromstring(plot_alignment(clip(text="x", **changes)))
        return root.find(".//{http://www.w3.org/2000/svg}circle/{http://www.w3.org/2000/svg}title").text

    assert (dot(), dot(true_s=0.99)) == ("-5.0 ms", "+10.0 ms")


def test_a_long_sound_has_a_short_curve():
    curve = loudness_curve(np.random.default_rng(0).normal(size=1_000_000))["curve"]
    assert len(curve) <= 600
    assert 0 <= min(curve) <= max(curve) <= 99

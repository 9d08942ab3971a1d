"""The comparison's own command, in small, on the demo's data: every run is there once, and every table."""

import json

import pytest

from stages.demo.comparison import compare

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_a_comparison_leaves_its_tables_and_repeats_no_run(demo, monkeypatch, capfd):
    monkeypatch.chdir(demo)
    asked = {
        "seeds": 1,
        "steps": 2,
        "lanes": 2,
        "parts": ("frozen", "fusions"),
        "only": ("InfoNCE", "completion, masking 15 %", "image alone", "GatedFusion"),
    }
    compare(**asked)
    assert capfd.readouterr().out.count("$ python -m stages.align fit") == 3
    found = json.loads((demo / "runs/comparison/tables.json").read_text())
    assert list(found["objectives, image and audio encoders frozen"]) == [
        "InfoNCE",
        "completion, masking 15 %",
    ]
    assert list(found["fusions"]) == ["image alone", "GatedFusion"]
    assert found["fusions"]["image alone"][0]["accuracy"] == pytest.approx(0.5)
    asked_by = list(found["one modality missing: objectives, image and audio encoders frozen"])
    assert asked_by == [
        "InfoNCE; asked by mean",
        "completion, masking 15 %; asked by mean",
        "completion, masking 15 %; asked by completion",
    ]
    compare(**asked)
    assert "$ python" not in capfd.readouterr().out

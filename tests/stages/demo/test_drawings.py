"""Captioned single digits: nothing of them is held out, they say what they show, and they are the same every time."""

from collections import Counter

import pytest

from stages.demo import drawings as module
from stages.demo.drawings import drawings
from stages.demo.scenes import parse
from stages.demo.splits import make_splits


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "drawings"
    drawings(out, number=100, seed=3)
    return out


def test_every_picture_has_a_caption_of_one_thing_and_each_combination_of_training_comes_as_often(made):
    splits = make_splits(3)
    things = [parse(file.read_text().strip()).things for file in made.glob("*.txt")]
    counts = Counter(thing for each in things for thing in each)
    assert {len(each) for each in things} == {1} and set(counts.values()) == {2}
    assert set(counts) == set(splits["train"].things)
    assert not set(counts) & set(splits["test"].held_out)
    assert {file.stem for file in made.glob("*.txt")} == {file.stem for file in made.glob("*.png")}


def test_handwriting_is_of_training_alone(tmp_path, monkeypatch):
    used, draw_things = [], module.draw_things

    def watched(ground, scene, scans, *rest):
        used.extend(scans)
        return draw_things(ground, scene, scans, *rest)

    monkeypatch.setattr(module, "draw_things", watched)
    drawings(tmp_path / "drawings", number=60)
    known = {scan.tobytes() for scans in make_splits(0)["train"].scans.values() for scan in scans}
    assert len(used) == 60 and {scan.tobytes() for scan in used} <= known


def test_the_same_seed_draws_the_same_and_a_finished_folder_is_left_as_it_is(made, tmp_path):
    drawings(tmp_path / "again", number=100, seed=3)
    assert content(tmp_path / "again") == content(made)
    before = {file: file.stat().st_mtime_ns for file in made.iterdir()}
    drawings(made, number=100, seed=3)
    assert {file: file.stat().st_mtime_ns for file in made.iterdir()} == before


def test_other_drawings_and_other_data_are_refused(made, tmp_path):
    with pytest.raises(ValueError, match=r"Found .*'drawings': 100.*expected .*'drawings': 50.*Remove"):
        drawings(made, number=50, seed=3)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"no made\.json"):
        drawings(tmp_path)
    with pytest.raises(ValueError, match="number 0"):
        drawings(tmp_path / "none", number=0)

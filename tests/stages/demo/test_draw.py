"""draw: what is counted as recognised or rightly said, and what the sheet shows."""

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from stages.demo.draw import SHOWN, STEPS, _recognised, _said, draw, real_pictures, table
from stages.demo.scenes import THINGS, parse
from stages.demo.sheet import TILE, write_sheet

ROOT = Path(__file__).parents[3]


def test_digit_colour_and_both_are_counted_by_themselves():
    asked = ["red seven", "red seven", "blue two", "green one"]
    seen = ["red seven", "blue seven", "blue one", "white zero"]
    assert _recognised(asked, seen) == {"digit": 0.5, "colour": 0.5, "both": 0.25, "count": 4}


def test_a_caption_is_compared_word_for_word_and_thing_by_thing():
    true = "a red seven left of a blue two"
    scores = _said(
        [(true, true), (true, "a red six left of a blue two"), (true, "a red"), (true, "a blue seven")]
    )
    assert scores == {"exact": 0.25, "digit": 4 / 8, "colour": 4 / 8, "count": 4}


def test_the_sheet_holds_every_picture_where_its_text_is(tmp_path):
    texts = ["a red seven", "a blue two", "a green one", "a white nine"]
    pictures = torch.arange(8, dtype=torch.uint8).view(4, 2, 1, 1, 1).expand(-1, -1, 3, 8, 8) * 20 + 60
    write_sheet(texts, pictures, tmp_path / "sheet.png")
    sheet = Image.open(tmp_path / "sheet.png").convert("L")
    colours = [value for _, value in sheet.getcolors(1 << 16)]
    assert set(range(60, 220, 20)) <= set(colours)
    counts = {value: count for count, value in sheet.getcolors(1 << 16)}
    assert all(counts[value] >= TILE**2 for value in range(60, 220, 20))


def test_what_the_sheet_asks_for_are_texts_of_the_scenes():
    assert all(parse(text).things for text in SHOWN) and len(set(SHOWN)) == len(SHOWN)


def test_steps_run_what_leaves_the_file_that_says_they_are_done():
    for step in STEPS:
        _, config, path = step.arguments.partition("--config ")
        content = yaml.safe_load((ROOT / path).read_text()) if config else {}
        folder = content.get("run_dir") or content.get("out") or step.arguments.partition("--out ")[2]
        assert f"runs/demo/{step.done}".startswith(f"{folder}/")
        for name in content.get("sets", {}):
            assert f"{folder}/{name}/manifest.json" == f"runs/demo/{step.done}"


def test_what_the_steps_train_on_is_what_the_steps_before_left_or_the_demo_has():
    made = {Path("runs/demo", step.done).parent.as_posix() for step in STEPS}
    sets = {f"runs/demo/shards/{name}" for name in yaml.safe_load(PREPARED.read_text())["sets"]}
    content = yaml.safe_load((ROOT / "configs/unify/scenes.yaml").read_text())
    assert set(content["data"]["train"]) <= made | sets


PREPARED = ROOT / "configs/prepare/spoken_scenes.yaml"


def test_real_pictures_are_of_the_things_asked_for_and_the_same_every_time():
    pictures = real_pictures(THINGS[:3], data_seed=0, seed=1)
    assert pictures.shape == (3, 3, 64, 64) and pictures.dtype == torch.uint8
    assert torch.equal(pictures, real_pictures(THINGS[:3], data_seed=0, seed=1))
    assert not torch.equal(pictures, real_pictures(THINGS[:3], data_seed=0, seed=2))


def test_the_table_has_chance_beside_what_was_reached():
    scores = {"digit": 0.9, "colour": 1.0, "both": 0.9, "recall_at_1": 0.5}
    said = {"exact": 0.25, "digit": 0.5, "colour": 0.5}
    things = ("drawn", "real_things", "redrawn_things")
    names = (*things, *(f"{name}_held_out" for name in things), "drawn_scenes", "redrawn", "real")
    copied = {"drawn_nearest": 0.6, "real_nearest": 0.5, "drawn_whole": 0.0, "real_whole": 0.0}
    metrics = dict.fromkeys(names, scores) | {"said": said, "said_things": said, "copied": copied}
    text = table({**metrics, "chance": {"digit": 0.1, "colour": 1 / 6, "both": 1 / len(THINGS)}})
    assert "90.0 %" in text and text.splitlines()[-2].split() == [
        "chance",
        "10.0",
        "%",
        "16.7",
        "%",
        "1.7",
        "%",
    ]


def test_without_the_demo_it_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"run `python -m stages\.demo run` first"):
        draw()

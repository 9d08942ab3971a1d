"""The tree on disk: the same bytes every time, all that is listed is there, and no other folder is touched."""

import hashlib
import json

import pytest

from stages.demo.spoken_scenes import make


def digests(root):
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "raw"
    make(out, seed=3, scale=0.002, num_workers=2)
    return out


def test_another_run_with_another_number_of_workers_gives_the_same_bytes(raw, tmp_path):
    make(tmp_path / "raw", seed=3, scale=0.002, num_workers=1)
    assert digests(tmp_path / "raw") == digests(raw)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_finished_tree_is_left_as_it_is(raw):
    before = {file: file.stat().st_mtime_ns for file in raw.rglob("*")}
    make(raw, seed=3, scale=0.002)
    assert {file: file.stat().st_mtime_ns for file in raw.rglob("*")} == before


@pytest.mark.parametrize("asked", [{"seed": 4, "scale": 0.002}, {"seed": 3, "scale": 1.0}])
def test_a_tree_made_otherwise_is_refused(raw, asked):
    with pytest.raises(ValueError, match=r"Found .*'seed': 3.*expected .*Remove"):
        make(raw, **asked)


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"no made\.json"):
        make(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "wrong", [{"scale": 0.0}, {"scale": float("nan")}, {"seed": -1}, {"num_workers": -1}]
)
def test_numbers_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="expected a scale"):
        make(tmp_path / "raw", **wrong)


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("stages.demo.spoken_scenes.write_media", fail)
    with pytest.raises(OSError, match="disk full"):
        make(tmp_path / "raw", scale=0.002)
    assert not list(tmp_path.iterdir())


def test_val_and_test_scenes_have_picture_caption_and_sound(raw):
    for split in ("val", "test"):
        files = list((raw / "scenes" / split).iterdir())
        assert {file.suffix for file in files} == {".jpg", ".txt", ".flac"}
        assert len(files) == 3 * len({file.stem for file in files}) == 60


def test_sounds_are_mono_at_16_khz_and_shorter_than_six_seconds(raw):
    import soundfile

    for file in raw.rglob("*.flac"):
        info = soundfile.info(file)
        assert (info.channels, info.samplerate) == (1, 16_000)
        assert 0.2 < info.duration < 6


def test_pictures_are_64_pixels_square_in_colour(raw):
    from PIL import Image

    pictures = [*raw.rglob("*.jpg"), *raw.rglob("*.png")]
    assert pictures and {(Image.open(file).size, Image.open(file).mode) for file in pictures} == {
        ((64, 64), "RGB")
    }


@pytest.mark.parametrize("split", ["train", "test"])
def test_instructions_are_in_llavas_layout_and_their_media_exist(raw, split):
    records = json.loads((raw / f"instructions/{split}.json").read_text(encoding="utf-8"))
    assert len({record["id"] for record in records}) == len(records)
    for record in records:
        turns = record["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        question = turns[0]["value"]
        assert all(turn["value"] and "<" not in turn["value"] for turn in turns[1:])
        for kind in ("image", "audio"):
            assert question.count(f"<{kind}>") == (kind in record)
            assert kind not in record or (raw / "instructions" / record[kind]).is_file()


def test_made_json_says_what_is_held_out(raw):
    made = json.loads((raw / "made.json").read_text())
    assert (made["seed"], made["scale"], len(made["held_out"])) == (3, 0.002, 10)

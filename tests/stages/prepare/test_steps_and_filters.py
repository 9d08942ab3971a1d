"""Filters, signals and steps as `prepare` runs them: from a config to shards, and in two goes as in one."""

import io
import json
import tarfile

import pytest
import yaml
from PIL import Image

from stages.cli import command
from stages.prepare.prepare import prepare

PREPARATION = "datamodules.preparation"


@pytest.fixture
def raw(scenes, tmp_path):
    """The scenes; one of them again as a small JPEG, one without a text, and a text that is a file name."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for number, scene in enumerate(scenes):
        for suffix in ("png", "flac", "txt"):
            (folder / f"{scene['__key__']}.{suffix}").write_bytes(scene[suffix])
        if number == 4:
            (folder / f"{scene['__key__']}.txt").unlink()
    picture = Image.effect_mandelbrot((320, 240), (-2, -1, 0.6, 1), 60).convert("RGB")
    picture.save(folder / "a.png")
    picture.resize((160, 120)).save(folder / "b.jpg", quality=60)
    (folder / "a.txt").write_text("a set that has no end")
    (folder / "b.txt").write_text("the same, found elsewhere")
    (folder / "c.txt").write_text("IMG_0042.jpg")
    return folder


@pytest.fixture
def config(raw, tmp_path, aligned_parts, captioners):
    """Everything at once."""
    parts = str(aligned_parts)
    captions = {
        "class_path": "PretrainedCaptions",
        "init_args": {"name_or_path": captioners["git"], "prompt": "a photo of"},
    }
    features = {"encoder": f"{parts}/encoders.image", "cache": str(tmp_path / "store"), "dtype": "float32"}
    recipe = {
        "source": {"class_path": "Folder", "init_args": {"path": str(raw)}},
        "filters": [
            {"class_path": f"{PREPARATION}.cleaning.media.Undecodable"},
            {"class_path": f"{PREPARATION}.cleaning.texts.FileNameText"},
            {"class_path": f"{PREPARATION}.cleaning.duplicates.NearDuplicateImages"},
            {"class_path": f"{PREPARATION}.cleaning.duplicates.NearDuplicateTexts"},
        ],
        "quality": {},
        "steps": [
            {"class_path": "stages.prepare.captions.WeakCaptions", "init_args": {"model": captions}},
            {"class_path": "LowSimilarity", "init_args": {"parts": parts, "min_similarity": -1.0}},
            {"class_path": "stages.prepare.features.FeatureCache", "init_args": features},
            {"class_path": "FeatureCache", "init_args": {"encoder": f"{parts}/encoders.audio"}},
        ],
        "max_samples": 4,
    }  # fmt: skip
    path = tmp_path / "prepare.yaml"
    path.write_text(yaml.safe_dump({"out": str(tmp_path / "out"), "sets": {"scenes": recipe}}))
    return path


def run(config, *more):
    command(prepare, args=["--config", str(config), "--workers", "1", *map(str, more)])


def content(folder):
    found = {}
    for tar in sorted(folder.glob("*.tar")):
        with tarfile.open(fileobj=io.BytesIO(tar.read_bytes())) as members:
            found |= {member.name: members.extractfile(member).read() for member in members}
    return found


def test_filters_signals_and_steps_work_together_and_tell_of_it(config, tmp_path):
    run(config)
    folder = tmp_path / "out/scenes"
    manifest, members = json.loads((folder / "manifest.json").read_text()), content(folder)
    assert manifest["dropped"]["near-duplicate image"] == 1
    assert manifest["dropped_names"]["text is a file name"] == ["c"]
    assert manifest["captions"]["captioned"] == 1
    assert members["000004.txt"].startswith(b"a photo of")
    assert json.loads(members["000004.origin.json"])["txt"]["weak"] is True
    assert "000003.origin.json" not in members
    assert set(json.loads(members["a.quality.json"])) == {"image", "text"}
    assert members["a.image.safetensors"]
    assert manifest["features.image"]["encoded"] == manifest["members"]["image.safetensors"]
    assert manifest["features.audio"]["without"] == 1
    assert sum(manifest["similarity.image_text"]["from"].values()) == manifest["samples"]


def test_a_set_made_again_with_a_full_store_has_the_same_bytes(config, tmp_path):
    run(config)
    run(config, "--out", tmp_path / "again")
    assert content(tmp_path / "again/scenes") == content(tmp_path / "out/scenes")
    again = json.loads((tmp_path / "again/scenes/manifest.json").read_text())
    assert again["features.image"]["hit_rate"] == 1.0


def test_a_part_that_is_missing_is_refused_before_any_sample(config, tmp_path, capsys):
    asked = yaml.safe_load(config.read_text())
    asked["sets"]["scenes"]["steps"][2]["init_args"]["encoder"] = str(tmp_path / "parts/encoders.image")
    config.write_text(yaml.safe_dump(asked))
    with pytest.raises(SystemExit) as refusal:
        run(config)
    assert refusal.value.code == 2
    assert "encoders.image" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

"""The cache of features: what is written, what is reused, and that training on it is training on the encoder."""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from datamodules.modalities.features import unpack
from datamodules.shards.writer import write_shards
from datamodules.sources.source import Dropped, Sample
from stages.cli import run
from stages.prepare.features import FeatureCache

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs


@pytest.fixture(autouse=True)
def no_complaint_of_logging(monkeypatch):
    """Lightning's logger keeps the stderr that it was imported under, which pytest has closed since."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


@pytest.fixture
def image_part(aligned_parts):
    return str(aligned_parts / "encoders.image")


def live_tokens(part, sample, modality_name="image"):
    """Return what the encoder makes of one sample by itself."""
    from datamodules.modalities.build import build_modalities
    from modules import parts

    encoder = parts.load(part).eval()
    [modality] = build_modalities({modality_name: encoder.input_config}).values()
    member = next(name for name in modality.members if name in sample.members)
    value = modality.decode(sample.members[member], member)
    with torch.inference_mode():
        return encoder(modality.collate([value]))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 2e-3)])
@pytest.mark.parametrize("modality", ["image", "audio", "text"])
def test_features_are_those_of_the_encoder(modality, dtype, tolerance, aligned_parts, samples):
    part = str(aligned_parts / f"encoders.{modality}")
    made = FeatureCache(part, dtype=dtype, batch_size=4)(samples)
    for before, after in zip(samples, made, strict=True):
        features, mask = unpack(after.members[f"{modality}.safetensors"])
        tokens = live_tokens(part, before, modality)
        assert features.dtype == np.dtype(dtype)
        np.testing.assert_allclose(
            features[mask], tokens.features[tokens.mask].numpy(), atol=tolerance, rtol=tolerance
        )
        assert before.members.items() <= after.members.items()


def test_media_can_be_left_out(image_part, samples):
    made = FeatureCache(image_part, keep_media=False)(samples)
    assert {frozenset(sample.members) for sample in made} == {frozenset({"flac", "txt", "image.safetensors"})}


def test_what_is_not_there_is_counted_and_what_cannot_be_decoded_is_dropped(image_part, samples, without):
    bad = Sample("bad", {"png": b"<html>", "txt": b"a dog"}, "bad.png")
    step = FeatureCache(image_part)
    plain = without(samples[0], "png")
    made = step([plain, bad, samples[1]])
    assert made[0] is plain
    assert made[1] == Dropped("bad.png", "undecodable image", bad)
    assert "image.safetensors" in made[2].members
    about = step.report()["features.image"]
    assert (about["encoded"], about["reused"], about["without"]) == (1, 0, 1)
    assert step(samples[:0]) == []


def test_equal_media_are_encoded_once(image_part, samples):
    other = Sample("other", {**samples[0].members, "txt": b"another text"}, "other")
    step = FeatureCache(image_part)
    made = step([samples[0], samples[1], other])
    assert made[0].members["image.safetensors"] == made[2].members["image.safetensors"]
    about = step.report()["features.image"]
    assert (about["encoded"], about["reused"], about["hit_rate"]) == (2, 1, 0.3333)


def forbid_encoding(monkeypatch):
    monkeypatch.setattr(
        "modules.encoders.huggingface.ImageEncoder.forward", lambda *_: pytest.fail("encoded")
    )


def test_another_set_with_the_same_media_reuses_features(image_part, samples, tmp_path, monkeypatch):
    first = FeatureCache(image_part, cache=tmp_path)(samples)
    texts = [Sample(s.key, {**s.members, "txt": b"other words"}, s.name) for s in reversed(samples)]
    forbid_encoding(monkeypatch)
    step = FeatureCache(image_part, cache=tmp_path)
    again = step(texts)
    assert [s.members["image.safetensors"] for s in again] == [s.members["image.safetensors"] for s in first][
        ::-1
    ]
    assert step.report()["features.image"]["hit_rate"] == 1.0


def test_another_encoder_or_number_format_reuses_nothing(image_part, aligned_parts, samples, tmp_path):
    from modules import parts

    FeatureCache(image_part, cache=tmp_path)(samples)
    other = str(parts.save(parts.untrained(image_part), tmp_path / "parts" / "encoders.image"))
    for step in (
        FeatureCache(other, cache=tmp_path),
        FeatureCache(image_part, cache=tmp_path, dtype="float32"),
    ):
        step(samples)
        assert step.report()["features.image"]["reused"] == 0


def test_a_damaged_store_is_encoded_anew(image_part, samples, tmp_path):
    first = FeatureCache(image_part, cache=tmp_path)(samples)
    [content] = tmp_path.rglob("*.features")
    content.write_bytes(content.read_bytes()[:-1])
    step = FeatureCache(image_part, cache=tmp_path)
    assert step(samples) == first
    assert step.report()["features.image"]["encoded"] == 1
    for index in tmp_path.rglob("*.json"):
        index.write_bytes(b"[1, 2")
    assert FeatureCache(image_part, cache=tmp_path)(samples) == first


def test_the_counts_go_on_where_a_run_was_stopped(image_part, samples):
    whole, first = FeatureCache(image_part), FeatureCache(image_part)
    whole(samples[:5])
    whole(samples[5:])
    first(samples[:5])
    second = FeatureCache(image_part)
    second.restore(first.state())
    second(samples[5:])
    assert second.report() == whole.report()


def test_a_part_that_is_missing_is_refused_before_any_sample(aligned_parts):
    with pytest.raises(ValueError, match=r"encoders\.image"):
        FeatureCache(str(aligned_parts / "encoders.picture")).identity()


# ---- training on it


def cached_shards(folder: Path, samples, *steps) -> Path:
    for step in steps:
        samples = step(samples)
    write_shards([{"__key__": s.key, **s.members} for s in samples], folder, max_samples=6)
    return folder


def fit(stage: str, config: dict) -> Path:
    path = Path(config["run_dir"] + ".yaml")
    path.write_text(yaml.safe_dump(config))
    run(stage, ["fit", "--config", str(path)])
    return Path(config["run_dir"])


def live(path) -> dict:
    return {"class_path": "modules.parts.load", "init_args": {"path": str(path)}}


def cached(path) -> dict:
    return {"class_path": "modules.encoders.cached.CachedEncoder", "init_args": {"path": str(path)}}


@pytest.fixture
def align_config(aligned_parts, tmp_path):
    """Name, encoders and shards -> a run of three steps of align with frozen image and audio encoders."""

    def make(name, encoders, shards):
        frozen = {} if name == "cached" else {"encoders.image": 0, "encoders.audio": 0}
        return {
            "run_dir": str(tmp_path / name),
            "model": {
                "encoders": {**encoders, "text": live(aligned_parts / "encoders.text")},
                "dim": 8,
                "objective": {"class_path": "modules.objectives.contrastive.InfoNCE"},
                "optim": {"lr": 1e-2},
                "lr_factors": frozen,
            },
            "data": {"train": str(shards), "batch_size": 4, "num_workers": 0},
            "trainer": {"accelerator": "cpu", "max_steps": 3, "enable_progress_bar": False},
        }

    return make


def losses_of(stage_class, monkeypatch):
    """Return the list of losses as training makes them."""
    losses, seen = stage_class.losses, []

    def noted(stage, batch):
        found = losses(stage, batch)
        seen.append({name: value.item() for name, value in found.items()})
        return found

    monkeypatch.setattr(stage_class, "losses", noted)
    return seen


def test_align_on_cached_features_makes_the_steps_of_the_live_frozen_encoders(
    align_config, aligned_parts, samples, scenes_shards, tmp_path, monkeypatch
):
    from modules import parts
    from stages.align import Align

    names = ("image", "audio")
    folders = {name: aligned_parts / f"encoders.{name}" for name in names}
    steps = [FeatureCache(str(folder), keep_media=False, dtype="float32") for folder in folders.values()]
    shards = cached_shards(tmp_path / "shards", samples, *steps)
    seen = losses_of(Align, monkeypatch)
    configs = {
        "live": align_config("live", {name: live(folder) for name, folder in folders.items()}, scenes_shards),
        "cached": align_config("cached", {name: cached(folder) for name, folder in folders.items()}, shards),
    }
    runs, found = {}, {}
    for name, config in configs.items():
        seen.clear()
        torch.manual_seed(0)
        runs[name] = fit("stages.align.Align", config)
        found[name] = list(seen)
    assert len(found["live"]) == 3
    for one, other in zip(found["live"], found["cached"], strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    for name, folder in folders.items():
        before, after = (
            parts.read_card(path) for path in (folder, runs["cached"] / "parts" / f"encoders.{name}")
        )
        assert parts.fingerprint(after) == parts.fingerprint(before)


def test_features_of_another_encoder_are_refused_before_the_first_step(
    align_config, aligned_parts, image_part, samples, tmp_path, capsys, monkeypatch
):
    from modules import parts

    other = str(parts.save(parts.untrained(image_part), tmp_path / "parts" / "encoders.image"))
    shards = cached_shards(tmp_path / "shards", samples, FeatureCache(other))
    config = align_config("cached", {"image": cached(image_part)}, shards)
    monkeypatch.setattr("stages.align.Align.losses", lambda *_: pytest.fail("a step was made"))
    with pytest.raises(SystemExit) as stopped:
        fit("stages.align.Align", config)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    for part in (image_part, other):
        assert parts.fingerprint_of(part) in message
    assert image_part in message and "prepare the features again" in message


def test_a_learning_rate_for_a_cached_encoder_is_refused(align_config, image_part, samples, tmp_path, capsys):
    shards = cached_shards(tmp_path / "shards", samples, FeatureCache(image_part))
    config = align_config("cached", {"image": cached(image_part)}, shards)
    config["model"]["lr_factors"] = {"encoders.image": 0.5}
    with pytest.raises(SystemExit) as stopped:
        fit("stages.align.Align", config)
    assert stopped.value.code == 2
    assert "'encoders.image' the factor 0.5, but all of it is frozen" in capsys.readouterr().err


def test_instruct_reads_cached_features_and_hands_over_the_encoder(
    assistant_parts, samples, tmp_path, monkeypatch
):
    from modules import parts
    from modules.assistant import Assistant
    from stages.instruct import Instruct

    turns = [{"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": "red"}]
    record = json.dumps({"conversations": turns}).encode()
    asked = [Sample(s.key, {"png": s.members["png"], "json": record}, s.name) for s in samples]
    part = assistant_parts / "encoders.image"
    folders = {
        "live": cached_shards(tmp_path / "media", asked),
        "cached": cached_shards(
            tmp_path / "shards", asked, FeatureCache(str(part), keep_media=False, dtype="float32")
        ),
    }
    seen, found, runs = losses_of(Instruct, monkeypatch), {}, {}
    for name, encoder in (("live", live(part)), ("cached", cached(part))):
        seen.clear()
        runs[name] = fit(
            "stages.instruct.Instruct",
            {
                "run_dir": str(tmp_path / name),
                "model": {
                    "language_model": live(assistant_parts / "language_model"),
                    "encoders": {"image": encoder},
                    "lr_factors": {"assistant.encoders": 0} if name == "live" else {},
                },
                "data": {"train": str(folders[name]), "batch_size": 4, "num_workers": 0},
                "trainer": {"accelerator": "cpu", "max_steps": 2, "enable_progress_bar": False},
            },
        )
        found[name] = list(seen)
    for one, other in zip(found["live"], found["cached"], strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert Assistant.load(runs["cached"] / "parts").media == ["image"]
    assert parts.fingerprint_of(str(runs["cached"] / "parts/encoders.image")) == parts.fingerprint_of(
        str(part)
    )


def test_the_store_is_named_by_encoder_and_number_format(image_part, samples, tmp_path):
    from modules import parts

    FeatureCache(image_part, cache=tmp_path)(samples[:2])
    [folder] = tmp_path.iterdir()
    assert folder.name == f"{parts.fingerprint_of(image_part)}-float16"
    digest = hashlib.sha256(samples[0].members["png"]).hexdigest()
    assert digest in next(folder.glob("*.json")).read_text()

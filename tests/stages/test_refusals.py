"""Parts that do not belong together are refused by the command line before the first step, with what to do."""

from pathlib import Path

import pytest
import torch
from commands import fit, part, refusal

from datamodules.shards.writer import write_shards
from modules import parts
from modules.projections import Projection, Projector

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
INSTRUCT = "stages.instruct.Instruct"


@pytest.fixture
def instruct_config(config, assistant_parts) -> dict:
    """An instruction that has nothing wrong but for its data, which no refusal here gets to."""
    model = {
        "language_model": part(assistant_parts / "language_model"),
        "encoders": {"image": part(assistant_parts / "encoders.image")},
    }
    return {**config, "model": model}


def test_a_projection_of_another_width_than_its_encoder_is_refused(config, tmp_path, capsys, monkeypatch):
    narrow = parts.save(Projection(16, 8), tmp_path / "projections.image")
    config["model"]["projections"] = {"image": part(narrow)}
    message = refusal(config, capsys, monkeypatch)
    assert "the projection of image goes from 16 to 8, expected from 32 (its encoder) to 8" in message
    assert "take both from one run, or leave the projection out" in message


def test_a_projection_to_another_space_is_refused_and_one_that_fits_is_gone_on_with(
    config, aligned_parts, tmp_path, capsys, monkeypatch
):
    config["model"]["projections"] = {"image": part(aligned_parts / "projections.image")}
    assert "goes from 32 to 24, expected from 32 (its encoder) to 8" in refusal(config, capsys, monkeypatch)
    config["model"] |= {"dim": 24, "lr_factors": {"projections.image": 0}}
    fit(config)
    before, after = (
        parts.load(str(folder / "projections.image")).state_dict()
        for folder in (aligned_parts, Path(config["run_dir"], "parts"))
    )
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_a_projection_without_an_encoder_and_a_part_of_another_kind_are_refused(
    config, aligned_parts, capsys, monkeypatch
):
    config["model"]["projections"] = {"video": part(aligned_parts / "projections.image")}
    assert "projections names video, but there are encoders for" in refusal(config, capsys, monkeypatch)
    config["model"]["projections"] = {"image": part(aligned_parts / "encoders.image")}
    message = refusal(config, capsys, monkeypatch)
    assert "the projection of image was given a ImageEncoder, expected a Projection" in message


def test_a_projector_of_another_width_or_group_is_refused(instruct_config, tmp_path, capsys, monkeypatch):
    narrow = parts.save(Projector(16, 32), tmp_path / "narrow")
    instruct_config["model"]["projectors"] = {"image": part(narrow)}
    message = refusal(instruct_config, capsys, monkeypatch, INSTRUCT)
    assert "the image projector goes from 16 to 32, expected from 32 (its encoder) to 32" in message
    pairs = parts.save(Projector(32, 32, group=2), tmp_path / "pairs")
    instruct_config["model"] |= {"projectors": {"image": part(pairs)}, "group": {"image": 4}}
    message = refusal(instruct_config, capsys, monkeypatch, INSTRUCT)
    assert "both group and projectors name image: leave it out of group" in message


def test_a_projection_of_another_run_than_its_encoder_is_refused(
    config, aligned_parts, tmp_path, capsys, monkeypatch
):
    encoder = parts.load(str(aligned_parts / "encoders.image"))
    for run in ("first", "second"):
        modules = {"encoders.image": encoder, "projections.image": Projection(32, 8)}
        parts.save_all(modules, tmp_path / run, {name: {} for name in modules})
        next(encoder.parameters()).data += 0.1
    config["model"]["encoders"]["image"] = part(tmp_path / "first" / "encoders.image")
    config["model"]["projections"] = {"image": part(tmp_path / "second" / "projections.image")}
    message = refusal(config, capsys, monkeypatch)
    assert (
        f"{tmp_path}/second/projections.image ('projections.image') was handed over with another" in message
    )
    assert "parts of two parents; take both from one run" in message
    config["model"]["projections"] = {"image": part(tmp_path / "first" / "projections.image")}
    fit(config)


def test_a_tokenizer_with_another_vocabulary_than_the_model_is_refused(
    config, aligned_parts, tokenizer_path, tmp_path, capsys, monkeypatch
):
    from transformers import PreTrainedTokenizerFast

    from datamodules.preparation.tokenizer import train_tokenizer

    pretrained = tmp_path / "pretrained"
    parts.load(str(aligned_parts / "encoders.text")).trunk.save_pretrained(pretrained)
    own = PreTrainedTokenizerFast(tokenizer_file=tokenizer_path, pad_token="[PAD]")
    own.save_pretrained(pretrained)
    other = tmp_path / "tokenizer.json"
    other.write_text(train_tokenizer(["zebras quickly jump over foxes"], vocab_size=290))
    arguments = {"name_or_path": str(pretrained), "tokenizer": str(other), "max_tokens": 48}
    text = {"class_path": "modules.encoders.huggingface.TextEncoder", "init_args": arguments}
    config["model"]["encoders"]["text"] = text
    message = refusal(config, capsys, monkeypatch)
    assert f"{other} has another vocabulary than {pretrained}: id " in message
    assert "leave `tokenizer` out to take the model's own" in message
    arguments["tokenizer"] = tokenizer_path
    fit(config)


def test_a_part_whose_tokenizer_was_exchanged_is_refused(
    config, aligned_parts, tmp_path, capsys, monkeypatch
):
    copy = parts.save(parts.load(str(aligned_parts / "encoders.text")), tmp_path / "encoders.text")
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text().replace("[EOS]", "[END]"))
    config["model"]["encoders"]["text"] = part(copy)
    assert "tokenizer.json is not the file that the card was written with" in refusal(
        config, capsys, monkeypatch
    )


@pytest.mark.parametrize("lacks", ["flac", "png and txt"])
def test_a_modality_that_no_sample_brings_together_with_another_is_refused_by_name(
    lacks, config, scenes, tmp_path, capsys, monkeypatch
):
    kinds = ("png", "txt", "flac")
    kept = {"flac": [("png", "txt")], "png and txt": [(kind,) for kind in kinds]}[lacks]
    some = [
        {
            name: value
            for name, value in scene.items()
            if name not in kinds or name in kept[number % len(kept)]
        }
        for number, scene in enumerate(scenes)
    ]
    write_shards(some, tmp_path / "apart")
    config["data"]["train"] = str(tmp_path / "apart")
    message = refusal(config, capsys, monkeypatch)
    assert "no training sample has audio together with another of audio, image, text" in message
    assert "leave the audio encoder out" in message
    assert not Path(config["run_dir"], "config.yaml").exists()


def test_a_batch_without_pairs_in_a_set_that_has_some_costs_nothing_and_stops_nothing(
    config, scenes, tmp_path
):
    apart = [
        {name: value for name, value in scene.items() if name not in ("flac", "txt")} for scene in scenes[:8]
    ]
    write_shards([*apart, *scenes[8:]], tmp_path / "few")
    config["data"] |= {"train": str(tmp_path / "few"), "batch_size": 1}
    config["trainer"]["max_steps"] = 11  # every sample once
    fit(config)
    assert all(
        torch.isfinite(value).all()
        for value in parts.load(f"{config['run_dir']}/parts/encoders.image").state_dict().values()
    )

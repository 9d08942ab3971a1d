"""Adapters through the command line: what a stage trains, hands over, resumes from and refuses."""

import json
import logging
from pathlib import Path

import pytest
import torch
from commands import fit, part, refusal, stop_in_step, weights, written
from safetensors.torch import load_file

from datamodules.shards.writer import write_shards
from modules import adapters, parts
from stages.cli import run

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["Wqkv"]}
INSTRUCT = "stages.instruct.Instruct"
TEXT = "encoders.text"


def adapted(path: str | Path, **more) -> dict:
    """Return the config of a part with an adapter in it."""
    inner = {"part": part(path), "config": {**LORA, **more.pop("config", {})}}
    return {"class_path": "modules.adapters.adapt", "init_args": {**inner, **more}}


def changed(run_dir: str | Path, name: str, before: Path) -> set[str]:
    """Return the names of the tensors that a run has changed in a part."""
    first, last = (load_file(path / "weights.safetensors") for path in (before, Path(run_dir, "parts", name)))
    assert first.keys() == last.keys()
    return {key for key, value in first.items() if not torch.equal(value, last[key])}


@pytest.fixture
def conversations(scenes, tmp_path) -> Path:
    """A question about each scene, and its answer."""
    turns = [{"from": "human", "value": "<image>\nWhat colour?"}, {"from": "gpt", "value": "a red seven"}]
    record = json.dumps({"conversations": turns}).encode()
    write_shards([{**scene, "json": record} for scene in scenes], tmp_path / "conversations")
    return tmp_path / "conversations"


@pytest.fixture
def instruct_config(assistant_parts, conversations, tmp_path) -> dict:
    """An instruction of two steps that has nothing wrong, with LoRA in the language model."""
    encoders = {name: part(assistant_parts / f"encoders.{name}") for name in ("audio", "image")}
    targets = {"target_modules": ["q_proj", "v_proj"]}
    return {
        "run_dir": str(tmp_path / "run"),
        "model": {
            "language_model": adapted(assistant_parts / "language_model", config=targets),
            "encoders": encoders,
            "lr_factors": {"assistant.encoders": 0},
        },
        "data": {"train": str(conversations), "batch_size": 4, "num_workers": 0},
        "trainer": {"accelerator": "cpu", "max_steps": 2, "enable_progress_bar": False},
    }


def test_only_the_adapter_trains_and_what_is_handed_over_is_a_plain_part(config, aligned_parts):
    config["model"]["encoders"]["text"] = adapted(aligned_parts / TEXT)
    config["model"]["optim"]["lr"] = 0.1
    fit(config)
    assert changed(config["run_dir"], TEXT, aligned_parts / TEXT) == {"trunk.layers.0.attn.Wqkv.weight"}
    assert len(changed(config["run_dir"], "encoders.image", aligned_parts / "encoders.image")) > 10
    card = parts.read_card(Path(config["run_dir"], "parts", TEXT))
    assert card["adapter"] == {
        "state": "merged",
        "config": LORA,
        "base": {
            "path": str(aligned_parts / TEXT),
            "fingerprint": parts.fingerprint_of(str(aligned_parts / TEXT)),
        },
    }


def test_a_checkpoint_of_a_run_with_an_adapter_gives_the_part_that_is_handed_over(config, aligned_parts):
    config["model"]["encoders"]["text"] = adapted(aligned_parts / TEXT)
    fit(config, "--save_every_steps", "2")
    run_dir = Path(config["run_dir"])
    found = parts.load(f"{run_dir}/checkpoints/step-00000002.ckpt#{TEXT}").state_dict()
    torch.testing.assert_close(found, parts.load(str(run_dir / "parts" / TEXT)).state_dict(), rtol=0, atol=0)


def test_a_checkpoint_of_an_unmerged_adapter_is_refused_as_a_whole_part_and_merged_on_demand(
    config, aligned_parts
):
    config["model"]["encoders"]["text"] = adapted(aligned_parts / TEXT, merge=False)
    fit(config, "--save_every_steps", "2")
    run_dir = Path(config["run_dir"])
    path = f"{run_dir}/checkpoints/step-00000002.ckpt#{TEXT}"
    with pytest.raises(parts.PartError, match="is an adapter that is not merged into its base"):
        parts.load(path)
    found = adapters.merge(path).state_dict()
    expected = adapters.merge(str(run_dir / "parts" / TEXT)).state_dict()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_run_with_an_adapter_that_is_stopped_and_gone_on_with_ends_with_the_same_bytes(
    config, aligned_parts, tmp_path, monkeypatch
):
    config["model"]["encoders"]["text"] = adapted(aligned_parts / TEXT)
    config["trainer"]["max_steps"] = 4
    fit({**config, "run_dir": str(tmp_path / "unbroken")})
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_in_step(2, patch)
        fit(config)
    with monkeypatch.context() as patch:
        steps = stop_in_step(0, patch)
        fit(config)
    assert len(steps) == 2
    assert weights(config["run_dir"]) == weights(tmp_path / "unbroken")


def test_an_unmerged_part_is_refused_where_a_whole_one_is_meant_and_each_remedy_works(
    config, aligned_parts, tmp_path, capsys, monkeypatch
):
    first = {**config, "run_dir": str(tmp_path / "first")}
    encoders = config["model"]["encoders"]
    first["model"] = {
        **config["model"],
        "encoders": {**encoders, "text": adapted(aligned_parts / TEXT, merge=False)},
    }
    fit(first)
    tuned = Path(first["run_dir"], "parts", TEXT)
    assert parts.read_card(tuned)["adapter"]["state"] == "unmerged"

    encoders["text"] = part(tuned)
    message = refusal(config, capsys, monkeypatch)
    assert f"{tuned} is an adapter that is not merged into its base" in message
    encoders["text"] = adapted(tuned)
    assert "is an adapter that is not merged into its base" in refusal(config, capsys, monkeypatch)
    encoders["text"] = {
        "class_path": "modules.adapters.adapt",
        "init_args": {
            "part": {"class_path": "modules.adapters.load", "init_args": {"path": str(tuned)}},
            "config": LORA,
        },
    }
    assert "an adapter over an adapter is not supported" in refusal(config, capsys, monkeypatch)

    from stages.cli import command
    from stages.merge import merge

    command(merge, args=["--part", str(tuned), "--out", str(tmp_path / "plain")])
    plain = adapters.merge(str(tuned)).state_dict()
    torch.testing.assert_close(parts.load(str(tmp_path / "plain")).state_dict(), plain, rtol=0, atol=0)
    remedies = {
        "load": {"class_path": "modules.adapters.load", "init_args": {"path": str(tuned)}},
        "merge": {"class_path": "modules.adapters.merge", "init_args": {"path": str(tuned)}},
        "plain": part(tmp_path / "plain"),
    }
    for name, encoders["text"] in remedies.items():
        fit({**config, "run_dir": str(tmp_path / f"by-{name}")})
    assert parts.read_card(tmp_path / "by-load" / "parts" / TEXT)["adapter"]["state"] == "unmerged"


def test_a_target_that_matches_nothing_is_refused_with_the_nearest_and_the_mended_command_runs(
    config, aligned_parts, capsys, monkeypatch
):
    config["model"]["encoders"]["text"] = adapted(aligned_parts / TEXT, config={"target_modules": ["Wqk"]})
    message = refusal(config, capsys, monkeypatch)
    assert "the target 'Wqk' matches no module of TextEncoder; did you mean Wqkv" in message
    config["model"]["encoders"]["text"] = adapted(aligned_parts / TEXT)
    fit(config)


def test_lr_factors_scale_an_adapter_by_the_parts_name_and_free_by_a_name_inside(config, aligned_parts):
    config["model"]["encoders"]["text"] = adapted(aligned_parts / TEXT)
    config["model"]["lr_factors"] = {TEXT: 0.5, f"{TEXT}.trunk.final_norm": 0.1}
    fit(config)
    assert changed(config["run_dir"], TEXT, aligned_parts / TEXT) == {
        "trunk.layers.0.attn.Wqkv.weight",
        "trunk.final_norm.weight",
    }


def test_the_longest_prefix_unfreezes_a_part_of_a_frozen_encoder(config, aligned_parts):
    config["model"]["lr_factors"] = {"encoders": 0, f"{TEXT}.trunk.layers.0.mlp": 0.5}
    fit(config)
    assert changed(config["run_dir"], TEXT, aligned_parts / TEXT) == {
        "trunk.layers.0.mlp.Wi.weight",
        "trunk.layers.0.mlp.Wo.weight",
    }
    assert not changed(config["run_dir"], "encoders.image", aligned_parts / "encoders.image")


def test_a_language_model_with_lora_is_instructed_and_answers_as_a_plain_one(
    instruct_config, assistant_parts
):
    from modules.assistant import Assistant

    fit(instruct_config, stage=INSTRUCT)
    names = changed(instruct_config["run_dir"], "language_model", assistant_parts / "language_model")
    assert names == {f"model.model.layers.0.self_attn.{kind}_proj.weight" for kind in "qv"}
    assert Assistant.load(Path(instruct_config["run_dir"], "parts")).media == ["audio", "image"]


def test_a_second_instruction_goes_on_with_the_projectors_of_the_first(
    instruct_config, assistant_parts, tmp_path
):
    model, first = instruct_config["model"], Path(instruct_config["run_dir"], "parts")
    lora = model["language_model"]
    model["language_model"] = part(assistant_parts / "language_model")
    model["lr_factors"] = {"assistant.encoders": 0, "assistant.language_model": 0}
    fit(instruct_config, stage=INSTRUCT)
    model["language_model"], model["lr_factors"] = lora, {"assistant.encoders": 0, "assistant.projectors": 0}
    model["projectors"] = {name: part(first / f"projectors.{name}") for name in ("audio", "image")}
    fit({**instruct_config, "run_dir": str(tmp_path / "second")}, stage=INSTRUCT)
    assert not changed(tmp_path / "second", "projectors.image", first / "projectors.image")


def test_a_plan_and_the_run_count_the_adapters_weights_alone_and_list_them_as_new(
    config, aligned_parts, monkeypatch, caplog
):
    plans = []
    monkeypatch.setattr("stages.planning.report.report", lambda plan, *_: plans.append(plan))
    config["model"]["encoders"]["text"] = adapted(aligned_parts / TEXT)
    run("stages.align.Align", ["plan", "--config", written(config)])
    size = plans[0].parts[TEXT]
    assert (size.trained, size.random) == (2 * 32 + 96 * 2, 2 * 32 + 96 * 2)  # A (2, 32) and B (96, 2)
    assert size.frozen > 1000
    with caplog.at_level(logging.INFO):
        fit(config)
    said = next(line for line in caplog.messages if line.startswith("starts at random"))
    assert f"{TEXT} ({size.random} parameters)" in said
    assert "encoders.image" not in said

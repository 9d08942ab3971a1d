"""The command line of a training stage: what it refuses before the first step, and that it goes on exactly."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import fit, refusal, stop_in_step, weights, written

from modules import parts
from stages.cli import run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs


# ---- refused


def test_an_unknown_key_is_refused_by_name(config, capsys, monkeypatch):
    config["model"]["temprature"] = 0.1
    assert "temprature" in refusal(config, capsys, monkeypatch)


def test_a_part_that_is_not_there_is_refused_with_the_parts_beside_it(
    config, aligned_parts, capsys, monkeypatch
):
    config["model"]["encoders"]["image"]["init_args"]["path"] = str(aligned_parts / "encoders.picture")
    message = refusal(config, capsys, monkeypatch)
    assert str(aligned_parts / "encoders.picture") in message
    assert "encoders.image" in message


def test_a_part_of_the_wrong_kind_is_refused_by_its_class(config, aligned_parts, capsys, monkeypatch):
    config["model"]["encoders"]["image"]["init_args"]["path"] = str(aligned_parts / "projections.image")
    message = refusal(config, capsys, monkeypatch)
    assert "image was given a Projection, expected an encoder" in message


@pytest.mark.parametrize("exists", [False, True])
def test_a_missing_or_empty_folder_of_shards_is_refused_with_what_makes_it(
    exists, config, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "no-shards"
    if exists:
        folder.mkdir()
    config["data"]["train"] = str(folder)
    message = refusal(config, capsys, monkeypatch)
    assert f"{folder} {'holds no .tar' if exists else 'is not there'}" in message
    assert "python -m stages.prepare" in message


def test_a_prefix_that_matches_nothing_is_refused_and_the_mended_command_runs(config, capsys, monkeypatch):
    config["model"]["lr_factors"] = {"encoder.image": 0.1}
    with monkeypatch.context() as patch:
        message = refusal(config, capsys, patch)
    assert "'encoder.image', which matches no parameter; did you mean encoders.image" in message
    config["model"]["lr_factors"] = {"encoders.image": 0.1}
    fit(config)
    assert weights(config["run_dir"])


def test_steps_that_are_not_stated_are_refused(config, capsys, monkeypatch):
    del config["trainer"]["max_steps"]
    assert "state how many steps to train" in refusal(config, capsys, monkeypatch)


def test_freezing_everything_is_refused_and_the_mended_command_runs(config, capsys, monkeypatch):
    config["model"]["lr_factors"] = {"encoders": 0, "projections": 0, "objective": 0}
    with monkeypatch.context() as patch:
        assert "nothing to train" in refusal(config, capsys, patch)
    config["model"]["lr_factors"] = {"encoders": 0}
    fit(config)
    assert weights(config["run_dir"])


def test_a_run_directory_of_another_config_is_refused_by_the_key_that_differs(config, capsys, monkeypatch):
    fit(config)
    before = weights(config["run_dir"])
    config["model"]["optim"]["lr"] = 2e-2
    message = refusal(config, capsys, monkeypatch)
    assert f"{config['run_dir']} belongs to a run with another config" in message
    assert "model.optim.lr: 0.01 there, 0.02 asked" in message
    assert weights(config["run_dir"]) == before


def test_a_folder_that_holds_something_else_is_refused(config, capsys, monkeypatch):
    Path(config["run_dir"]).mkdir()
    Path(config["run_dir"], "thesis.tex").touch()
    assert "is not empty and holds no run" in refusal(config, capsys, monkeypatch)


# ---- precision


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_gradients_are_clipped_in_every_precision(precision, config, monkeypatch):
    from stages.align import Align

    clip, norms = Align.configure_gradient_clipping, []

    def recorded(stage, *given, **named):
        clip(stage, *given, **named)
        norms.append(
            torch.stack([p.grad.norm() for p in stage.parameters() if p.grad is not None]).norm().item()
        )

    monkeypatch.setattr(Align, "configure_gradient_clipping", recorded)
    config["trainer"] |= {"precision": precision, "gradient_clip_val": 0.01}
    fit(config)
    # bfloat16 has three digits.
    assert norms == pytest.approx([0.01, 0.01], rel=2e-2 if precision == "bf16-true" else 1e-3)
    assert weights(config["run_dir"])


def test_weights_of_16_bits_are_handed_over_and_what_must_be_exact_is_not_rounded(config, monkeypatch):
    from stages.align import Align

    seen = {}

    def watched(stage, batch):
        seen["input"] = {tensor.dtype for given in batch.inputs.values() for tensor in given.values()}
        seen["matrices"] = {parameter.dtype for parameter in stage.parameters() if parameter.ndim > 1}
        seen["norms"] = {value.dtype for name, value in stage.named_parameters() if "norm" in name}
        seen["buffers"] = {buffer.dtype for buffer in stage.buffers() if buffer.is_floating_point()}
        found = losses(stage, batch)
        seen["loss"] = {loss.dtype for loss in found.values()}
        return found

    losses = Align.losses
    monkeypatch.setattr(Align, "losses", watched)
    config["trainer"]["precision"] = "bf16-true"
    fit(config)
    assert torch.float32 in seen["input"] and torch.bfloat16 not in seen["input"]
    assert seen["matrices"] == {torch.bfloat16}
    assert seen["norms"] == {torch.float32}
    assert torch.bfloat16 not in seen["buffers"] | seen["loss"]
    folder = Path(config["run_dir"], "parts")
    assert {part["dtype"] for part in parts.read_card(folder / "encoders.audio")["tensors"].values()} >= {
        "bfloat16"
    }
    later = copy.deepcopy(config) | {"run_dir": config["run_dir"] + "-later"}
    later["trainer"]["precision"] = "32-true"
    for name in ("image", "audio", "text"):
        load = {"class_path": "modules.parts.load", "init_args": {"path": f"{folder}/encoders.{name}"}}
        later["model"]["encoders"][name] = load
    fit(later)
    assert weights(later["run_dir"])


# ---- going on


def test_a_finished_run_is_left_as_it_is_also_with_other_workers(config, capsys, monkeypatch):
    fit(config)
    there = {path: path.stat().st_mtime_ns for path in Path(config["run_dir"]).rglob("*")}
    monkeypatch.setattr("stages.align.Align.losses", lambda *_: pytest.fail("a step was made"))
    fit(config, "--data.num_workers", "2")
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in Path(config["run_dir"]).rglob("*")} == there


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_run_that_is_stopped_and_gone_on_with_ends_with_the_same_bytes(
    num_workers, config, tmp_path, monkeypatch, capsys
):
    config["trainer"]["max_steps"] = 5  # of 4 samples among 11: the stop lies in the second epoch
    config["data"]["num_workers"] = num_workers
    fit({**config, "run_dir": str(tmp_path / "unbroken")})

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        stop_in_step(3, patch)
        fit(config)
    assert stopped.value.code == 75
    assert "stopped at step 3 of 5" in capsys.readouterr().err
    checkpoints = Path(config["run_dir"], "checkpoints")
    assert sorted(path.name for path in checkpoints.glob("*.ckpt")) == ["latest.ckpt", "step-00000003.ckpt"]
    assert not Path(config["run_dir"], "metrics.json").exists()

    with monkeypatch.context() as patch:
        steps = stop_in_step(0, patch)
        fit(config)
    assert len(steps) == 2
    assert weights(config["run_dir"]) == weights(tmp_path / "unbroken")


def test_several_objectives_with_modalities_taken_away_go_on_with_the_same_bytes(
    config, tmp_path, monkeypatch, capsys
):
    """What is drawn at random, and what balances the objectives, comes back with the checkpoint."""
    objectives = "modules.objectives"
    config["model"]["objective"] = {
        "class_path": f"{objectives}.weighted.GradientBalanced",
        "init_args": {
            "objectives": {
                "contrast": {"class_path": f"{objectives}.contrastive.InfoNCE"},
                "complete": {
                    "class_path": f"{objectives}.completion.Completion",
                    "init_args": {"modalities": ["audio", "text"], "dim": 8, "hidden": 8},
                },
            },
            "weights": {"complete": 0.5},
        },
    }
    config["model"]["masking"] = {"share": 0.4}
    config["trainer"]["max_steps"] = 4
    fit({**config, "run_dir": str(tmp_path / "unbroken")})
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_in_step(2, patch)
        fit(config)
    fit(config)
    assert weights(config["run_dir"]) == weights(tmp_path / "unbroken")
    figures = json.loads(Path(config["run_dir"], "metrics.json").read_text())
    assert {"train/contrast_audio_image", "train/complete_completion_text"} <= set(figures)


def test_a_part_of_a_checkpoint_is_the_part_that_the_run_hands_over(config):
    fit(config, "--save_every_steps", "2")
    run_dir = Path(config["run_dir"])
    name = "encoders.image"
    from_checkpoint = parts.load(f"{run_dir}/checkpoints/step-00000002.ckpt#{name}").state_dict()
    handed_over = parts.load(str(run_dir / "parts" / name)).state_dict()
    torch.testing.assert_close(from_checkpoint, handed_over, rtol=0, atol=0)


def test_an_untrained_part_has_the_architecture_and_other_weights(aligned_parts):
    path = str(aligned_parts / "encoders.image")
    trained, fresh = parts.load(path).state_dict(), parts.untrained(path).state_dict()
    assert fresh.keys() == trained.keys()
    assert all(value.shape == trained[name].shape for name, value in fresh.items())
    matrices = [name for name, value in trained.items() if value.ndim > 1 and value.any()]
    assert matrices
    assert not any(torch.equal(trained[name], fresh[name]) for name in matrices)


# ---- several processes

SGD = """
import torch
from stages.align import Align


class Plain(Align):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.3)


if __name__ == "__main__":
    from stages.cli import run

    run("plain.Plain")
"""


FAILING = """
from stages.align import Align


class Failing(Align):
    def on_validation_epoch_end(self):
        raise RuntimeError("the fuse is blown")


if __name__ == "__main__":
    from stages.cli import run

    run("failing.Failing")
"""


@pytest.mark.slow
def test_a_training_that_fails_ends_although_its_workers_hear_no_signal(config, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    config["data"] |= {"val": config["data"]["train"], "num_workers": 1}
    command = [sys.executable, str(tmp_path / "failing.py"), "fit", "--config", written(config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert "the fuse is blown" in ended.stderr


@pytest.fixture
def lacking_shards(scenes, tmp_path) -> str:
    """Scenes of which many lack a modality: of the first batches, not the same ones on both ranks."""
    from datamodules.shards.writer import write_shards

    lacking = {0: "png", 1: "flac", 2: "txt", 3: "png", 5: "flac", 6: "flac", 8: "txt"}
    some = [
        {name: value for name, value in sample.items() if name != lacking.get(number)}
        for number, sample in enumerate(scenes)
    ]
    write_shards(some, tmp_path / "lacking")
    return str(tmp_path / "lacking")


def fit_on_two(module: list[str], config: dict) -> None:
    """Run `fit` in two processes of this machine."""
    command = [sys.executable, *module, "fit", "--config", written(config), "--trainer.devices", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [*command, "--trainer.strategy", "ddp"], cwd=ROOT, env=environment, check=True, timeout=120
    )


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["InfoNCE", "SigLIP"])
def test_two_processes_make_the_steps_of_one(objective, config, lacking_shards, tmp_path, monkeypatch):
    """By plain gradient descent, since to Adam a gradient of any scale is the same."""
    (tmp_path / "plain.py").write_text(SGD)
    config["data"]["train"] = lacking_shards
    config["trainer"]["max_steps"] = 3
    config["model"]["objective"]["class_path"] = f"modules.objectives.contrastive.{objective}"
    monkeypatch.syspath_prepend(str(tmp_path))
    run("plain.Plain", ["fit", "--config", written({**config, "run_dir": str(tmp_path / "one")})])
    sys.modules.pop("plain")
    fit_on_two([str(tmp_path / "plain.py")], config)

    one, two = tensors(tmp_path / "one"), tensors(config["run_dir"])
    start = {
        name: value
        for encoder in config["model"]["encoders"].items()
        for name, value in first(*encoder).items()
    }
    moved = max((one[name] - value).abs().max().item() for name, value in start.items())
    assert moved > 1e-3
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_stage_on_two_processes_hands_over_what_it_does_on_one(
    config, lacking_shards, scenes_shards, tmp_path
):
    config["data"]["train"] = lacking_shards
    fit({**config, "run_dir": str(tmp_path / "one")})
    fit_on_two(["-m", "stages.align"], config)
    # Of the unit vectors, not of the weights: Adam makes whole steps of gradients that are rounding errors about
    # zero, such as those of the keys' biases, which no output depends on.
    one, two = (embeddings(run_dir, scenes_shards) for run_dir in (tmp_path / "one", config["run_dir"]))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-4)


def tensors(run_dir: str | Path) -> dict[str, torch.Tensor]:
    """Return all tensors of the parts that a run left, by part and name."""
    from safetensors.torch import load_file

    paths = Path(run_dir, "parts").glob("*/weights.safetensors")
    return {f"{path.parent.name}.{name}": value for path in paths for name, value in load_file(path).items()}


def first(modality: str, encoder: dict) -> dict[str, torch.Tensor]:
    """Return the tensors of an encoder that a config starts from, as `tensors` names them."""
    from safetensors.torch import load_file

    path = Path(encoder["init_args"]["path"], "weights.safetensors")
    return {f"encoders.{modality}.{name}": value for name, value in load_file(path).items()}


def embeddings(run_dir: str | Path, shards: Path) -> dict[str, torch.Tensor]:
    """Return the unit vectors that the parts of a run give samples, by modality."""
    from datamodules.modalities.build import build_modalities
    from datamodules.stream import batches
    from modules.embedder import Embedder

    embedder = Embedder.load(Path(run_dir, "parts"))
    batch = next(batches(shards, build_modalities(embedder.input_configs), 11))
    with torch.inference_mode():
        return embedder(batch.inputs)

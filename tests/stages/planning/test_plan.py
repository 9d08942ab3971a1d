"""The plan before a run: its figures are the run's, it needs no GPU and reads no weights."""

import json
import logging
from pathlib import Path

import pytest
import yaml

from stages.cli import run
from stages.planning.layout import Layout
from stages.planning.plan import Plan, Speed

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs


TRAINERS = Path(__file__).parents[3] / "configs/trainer"


@pytest.fixture(autouse=True)
def no_complaint_of_logging(monkeypatch):
    """Lightning's logger keeps the stderr that it was imported under, which pytest has closed since."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


def loaded(folder: Path, name: str) -> dict:
    return {"class_path": "modules.parts.load", "init_args": {"path": str(folder / name)}}


@pytest.fixture
def config(aligned_parts, scenes_shards, tmp_path) -> dict:
    """An alignment of a trained text encoder, a frozen image encoder and a new audio encoder."""
    audio = {
        "class_path": "modules.encoders.audio.AudioEncoder",
        "init_args": {
            "trunk": {"model_type": "modernbert", "hidden_size": 16, "intermediate_size": 32,
                       "num_hidden_layers": 1, "num_attention_heads": 2},
            "sampling_rate": 16000,
            "num_mels": 20,
        },
    }  # fmt: skip
    return {
        "run_dir": str(tmp_path / "run"),
        "model": {
            "encoders": {
                "audio": audio,
                "image": loaded(aligned_parts, "encoders.image"),
                "text": loaded(aligned_parts, "encoders.text"),
            },
            "dim": 8,
            "objective": {"class_path": "modules.objectives.contrastive.InfoNCE"},
            "optim": {"lr": 1e-2},
            "lr_factors": {"encoders.image": 0},
        },
        "data": {"train": str(scenes_shards), "batch_size": 4, "num_workers": 0},
        "trainer": {"accelerator": "cpu", "devices": 1, "max_steps": 2, "enable_progress_bar": False},
    }


@pytest.fixture
def seen(monkeypatch) -> list[Plan]:
    """Plans that were reported."""
    found: list[Plan] = []
    monkeypatch.setattr("stages.planning.report.report", lambda plan, *_: found.append(plan))
    return found


def command(config: dict, subcommand: str, *more: str, stage: str = "stages.align.Align") -> None:
    path = Path(config["run_dir"] + ".yaml")
    path.write_text(yaml.safe_dump(config))
    run(stage, [subcommand, "--config", str(path), *more])


def test_the_parameters_are_the_runs(config, seen):
    command(config, "plan")
    command(config, "fit")
    ran = json.loads(Path(config["run_dir"], "metrics.json").read_text())
    sizes = seen[0].parts.values()
    assert sum(size.trained for size in sizes) == ran["trainable_parameters"]
    assert sum(size.trained + size.frozen for size in sizes) == ran["parameters"]


def test_what_is_frozen_and_what_is_random_is_told_by_part(config, seen):
    command(config, "plan")
    parts = seen[0].parts
    assert parts["encoders.image"].trained == 0 < parts["encoders.image"].frozen
    assert parts["encoders.image"].sources == (config["model"]["encoders"]["image"]["init_args"]["path"],)
    assert parts["encoders.text"].random == 0 < parts["encoders.text"].trained
    audio = parts["encoders.audio"]
    assert audio.random == audio.trained + audio.frozen
    assert parts["projections.text"].random == parts["projections.text"].trained


def test_a_run_lists_what_starts_at_random(config, caplog):
    with caplog.at_level(logging.INFO):
        command(config, "fit")
    said = next(line for line in caplog.messages if line.startswith("starts at random"))
    assert "encoders.audio (" in said
    assert "projections.image (" in said
    assert "encoders.text" not in said


def test_nothing_of_the_run_directory_is_touched_and_no_weight_is_read(config, seen, monkeypatch):
    monkeypatch.setattr("modules.stored_part.check_tensors", lambda *_: pytest.fail("weights were read"))
    command(config, "plan")
    assert not Path(config["run_dir"]).exists()


def test_gpus_that_are_not_here_are_planned_for(config, seen):
    config["trainer"].update(accelerator="gpu", devices=4, strategy="ddp", precision="bf16-mixed")
    command(config, "plan")
    assert seen[0].layout == Layout(4, "ddp", "bf16-mixed", 1, 2, has_buckets=True)
    assert seen[0].memory["buckets of gradients"] == seen[0].memory["gradients"]


def test_a_batch_that_the_ranks_cannot_share_is_refused(config, capsys):
    config["trainer"].update(accelerator="gpu", devices=3)
    with pytest.raises(SystemExit):
        command(config, "plan")
    assert "does not divide by 3 ranks" in capsys.readouterr().err


def test_weights_of_16_bits_have_gradients_and_states_of_16_bits(config, seen):
    for precision in ("32-true", "bf16-true"):
        command(config, "plan", "--trainer.precision", precision)
    wide, half = (plan.memory for plan in seen)
    for kind in ("gradients", "optimizer"):
        assert half[kind] == pytest.approx(wide[kind] / 2, rel=0.1)
    assert half["optimizer"] == 2 * half["gradients"]


def test_layers_that_are_computed_again_keep_less_and_compute_more(config, seen):
    command(config, "plan")
    command(config, "plan", "--config", str(TRAINERS / "checkpoint_activations.yaml"))
    kept, again = seen
    assert again.memory["activations"] < kept.memory["activations"]
    assert again.flops > kept.flops
    assert again.parts == kept.parts


def test_a_pipeline_leaves_out_the_layers_of_other_ranks(aligned_parts, tokenizer_path, config, seen):
    llama = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
             "num_attention_heads": 2}  # fmt: skip
    text = {
        "class_path": "modules.language_model.LanguageModel",
        "init_args": {"config": llama, "tokenizer": tokenizer_path, "max_tokens": 48},
    }
    config["model"]["encoders"] = {"image": loaded(aligned_parts, "encoders.image"), "text": text}
    command(config, "plan")
    strategy = {"class_path": "stages.strategies.Pipeline", "init_args": {"size": 2}}
    config["trainer"].update(devices=4, strategy=strategy)
    command(config, "plan")
    one, two = seen
    layer = 4 * 32 * 32 + 3 * 32 * 64 + 2 * 32
    assert two.layout == Layout(4, "Pipeline", "32-true", 1, 2, pipeline=2)
    assert two.layout.shares == 2
    assert two.memory["gradients"] == one.memory["gradients"] - 2 * layer * 4
    assert two.memory["optimizer"] == one.memory["optimizer"] - 2 * layer * 8
    assert one.repeated == one.flops
    assert 0 < two.repeated < two.flops


def refused(config: dict, capsys: pytest.CaptureFixture, *more: str) -> str:
    """Return the message of a plan that is refused."""
    with pytest.raises(SystemExit) as stopped:
        command(config, "plan", *more)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_what_fit_refuses_is_refused_in_its_words(config, capsys):
    config["trainer"]["accumulate_grad_batches"] = 4
    assert "but the loss compares the samples of a batch" in refused(config, capsys)


def test_a_plan_in_which_nothing_is_trained_is_refused(config, capsys):
    config["model"]["lr_factors"] = {"encoders": 0, "projections": 0, "objective": 0}
    assert "lr_factors freezes every parameter" in refused(config, capsys)


def test_the_warnings_of_fit_are_the_plans(config, seen):
    resnet = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1]}
    image = {
        "class_path": "modules.encoders.huggingface.ImageEncoder",
        "init_args": {"config": resnet, "image_size": 32},
    }
    config["model"]["encoders"]["image"] = image
    config["model"]["lr_factors"] = {}
    command(config, "plan", "--trainer.devices", "2")
    assert any("encoders.image have batch norms" in warning for warning in seen[0].warnings)


def test_steps_of_warm_up_and_padding_are_told(config, seen):
    config["model"]["optim"]["warmup_share"] = 0.1
    command(config, "plan", "--trainer.max_steps", "50")
    assert seen[0].warmup == 5
    assert set(seen[0].filled) == {"audio", "text"}
    for real, places in seen[0].filled.values():
        assert 0 < real < places


def test_the_report_says_what_was_found(config, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    command(config, "plan", "--trainer.devices", "auto")
    said = capsys.readouterr().out
    for words in ("warm-up", "seconds a step", "hours", "text in a rank's batch", "trainer.devices is auto"):
        assert words in said


def test_hours_follow_from_flops():
    found = Plan(Layout(8, "ddp", "bf16-mixed", 2, 1000), {}, {}, 0, 256, {}, flops=1e12)
    speed = Speed(mfu=0.5, peak_tflops=100)
    assert found.step_s(speed) == pytest.approx(2 * 256 * 1e12 / (0.5 * 1e14 * 8))
    assert found.hours(speed) == pytest.approx(1000 * found.step_s(speed) / 3600)


def test_ranks_that_share_a_batch_each_do_what_is_not_divided():
    layout, speed = Layout(4, "Sharded", "32-true", 1, 1000, zero=3, tensor_parallel=2), Speed(0.5, 100)
    divided, half = (Plan(layout, {}, {}, 0, 256, {}, flops=1e12, repeated=each) for each in (0.0, 5e11))
    assert half.step_s(speed) == pytest.approx(1.5 * divided.step_s(speed))


@pytest.mark.parametrize("key, value", [("mfu", "0"), ("mfu", "1.5"), ("peak_tflops", "0")])
def test_a_speed_that_makes_no_sense_is_refused(key, value, config, capsys):
    assert f"--{key} is {value}: expected" in refused(config, capsys, f"--{key}", value)


def test_unusual_values_are_warned_of_by_key(config, seen):
    config["model"]["optim"] = {"lr": 0.5, "warmup_share": 0.5, "weight_decay": 0.05}
    command(config, "plan")
    warnings = "\n".join(seen[0].warnings)
    assert "data.batch_size is 4" in warnings
    assert "model.optim.lr is 0.5" in warnings
    assert "model.optim.warmup_share" in warnings
    assert "weight_decay" not in warnings

"""Transfer through the command line: fits, goes on, reports; and what it refuses before the first step."""

import json
import logging
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from datamodules.shards.writer import write_shards
from stages.cli import run

TRANSFER = "stages.transfer.Transfer"
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
FUSION = "modules.fusion"
TASKS = "modules.tasks"
PEOPLE, PLACES = ["Ann", "Bob", "Cem"], ["Oslo", "Rome"]


@pytest.fixture(autouse=True)
def no_complaint_of_logging(monkeypatch):
    """Lightning's logger keeps the stderr that it was imported under, which pytest has closed since."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


@pytest.fixture(scope="session")
def labelled_shards(scenes, tmp_path_factory) -> Path:
    """Pictures and sounds that belong together or not, each sixth without its sound; a number; and tagged words."""
    folder = tmp_path_factory.mktemp("labelled") / "pairs"
    draw, samples = np.random.default_rng(0), []
    for number in range(24):
        here, there = scenes[number % 11], scenes[(number + number % 2) % 11]
        words = [(str(draw.choice(PEOPLE)), "B-PER"), ("likes", "O"), (str(draw.choice(PLACES)), "B-LOC")]
        sample = {
            "__key__": f"{number:06d}",
            "png": here["png"],
            "flac": there["flac"],
            "cls": b"other" if number % 2 else b"match",
            "num": str(number % 11).encode(),
            "txt": " ".join(word for word, _ in words).encode(),
            "conll": "".join(f"{word}\t{tag}\n" for word, tag in words).encode(),
        }
        if number % 6 == 5:
            del sample["flac"]
        samples.append(sample)
    write_shards(samples, folder, max_samples=10)
    return folder


def part(path: Path) -> dict:
    return {"class_path": "modules.parts.load", "init_args": {"path": str(path)}}


def choose(class_path: str, **arguments) -> dict:
    return {"class_path": class_path, "init_args": arguments}


CLASSIFICATION = choose(f"{TASKS}.classification.Classification", classes=["match", "other"])
TAGGING = choose(f"{TASKS}.tagging.Tagging", entities=["PER", "LOC"])
REGRESSION = choose(f"{TASKS}.regression.Regression", mean=5.0, std=3.0)


@pytest.fixture
def config(aligned_parts, labelled_shards, tmp_path):
    """Return a function that makes the config of a run that has nothing wrong."""

    def make(task: dict, fusion: dict, *modalities: str) -> dict:
        return {
            "run_dir": str(tmp_path / "run"),
            "model": {
                "encoders": {name: part(aligned_parts / f"encoders.{name}") for name in modalities},
                "fusion": fusion,
                "task": deepcopy(task),
                "optim": {"lr": 1e-2},
            },
            "data": {
                "train": str(labelled_shards),
                "val": str(labelled_shards),
                "batch_size": 8,
                "num_workers": 0,
            },
            "trainer": {"accelerator": "cpu", "max_steps": 2, "enable_progress_bar": False},
        }

    return make


@pytest.fixture
def matching(config) -> dict:
    return config(CLASSIFICATION, choose(f"{FUSION}.gated.GatedFusion", dim=16), "audio", "image")


def command(config: dict, *more: str, do: str = "fit") -> None:
    path = Path(config["run_dir"] + ".yaml")
    path.write_text(yaml.safe_dump(config))
    run(TRANSFER, [do, "--config", str(path), *more])


def metrics(config: dict) -> dict:
    return json.loads(Path(config["run_dir"], "metrics.json").read_text())


def refusal(config: dict, capsys, monkeypatch) -> str:
    monkeypatch.setattr(f"{TRANSFER}.losses", lambda *_: pytest.fail("a step was made"))
    with pytest.raises(SystemExit) as stopped:
        command(config)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


# ---- what it leaves


@pytest.mark.parametrize(
    ("fusion", "modalities"),
    [
        (choose(f"{FUSION}.concat.ConcatFusion", dim=16), ["image", "audio"]),
        (choose(f"{FUSION}.late.LateFusion", dim=2), ["image"]),
        (choose(f"{FUSION}.early.EarlyFusion", dim=16, num_layers=1, num_heads=2), ["audio"]),
        (choose(f"{FUSION}.cross_attention.CrossAttentionFusion", dim=16, num_heads=2), ["audio", "image"]),
    ],
)
def test_classes_are_told_by_one_or_two_modalities_and_every_labelled_sample_is_judged(
    fusion, modalities, config, capsys
):
    config = config(CLASSIFICATION, fusion, *modalities)
    command(config)
    found = metrics(config)
    assert {name: row["support"] for name, row in found["per_class"].items()} == {"match": 12, "other": 12}
    assert found["chance"] == {"accuracy": 0.5}
    assert 0 <= found["val/macro_f1"] <= found["val/accuracy"] + 1e-6 <= 1 + 1e-6
    table, page = capsys.readouterr().out, Path(config["run_dir"], "report.md").read_text()
    for shown in (table, page):
        assert all(word in shown for word in ("match", "other", "precision", "recall", "f1", "support"))
    parts = sorted(path.name for path in Path(config["run_dir"], "parts").iterdir())
    assert parts == sorted(["fusion", "task", *(f"encoders.{name}" for name in modalities)])


def test_that_picture_and_sound_match_is_learnt(aligned_parts, scenes, config, tmp_path):
    """A tone's height tells nothing by itself, nor does a colour: only the two together do."""
    import io

    import soundfile
    from PIL import Image

    samples = []
    for number in range(32):
        colour, pitch = number % 2, number // 2 % 2
        picture, sound = io.BytesIO(), io.BytesIO()
        Image.new("RGB", (32, 32), (230 * colour, 20, 230 - 230 * colour)).save(picture, "png")
        tone = 0.3 * np.sin(2 * np.pi * (300 + 2000 * pitch) * np.arange(8000) / 16000)
        soundfile.write(sound, tone, 16000, format="flac")
        label = b"match" if colour == pitch else b"other"
        samples.append(
            {"__key__": f"{number:04d}", "png": picture.getvalue(), "flac": sound.getvalue(), "cls": label}
        )
    write_shards(samples, tmp_path / "tones")
    fusion = choose(f"{FUSION}.early.EarlyFusion", dim=16, num_layers=1, num_heads=2)
    config = config(CLASSIFICATION, fusion, "audio", "image")
    config["data"] |= {"train": str(tmp_path / "tones"), "val": str(tmp_path / "tones"), "batch_size": 32}
    config["trainer"]["max_steps"] = 60
    command(config)
    assert metrics(config)["val/accuracy"] == 1.0


def test_words_are_tagged_with_a_picture_in_view(config):
    fusion = choose(f"{FUSION}.cross_attention.CrossAttentionFusion", dim=32, num_layers=1, num_heads=2)
    config = config(TAGGING, fusion, "image", "text")
    config["trainer"]["max_steps"] = 60
    command(config)
    found = metrics(config)
    assert {name: row["support"] for name, row in found["per_class"].items()} == {"PER": 24, "LOC": 24}
    assert found["val/f1"] == 1.0


def test_tweets_with_pictures_go_from_conll_through_prepare_into_tagging(config, scenes, tmp_path):
    from stages.cli import command as run_function
    from stages.prepare.prepare import prepare

    raw = tmp_path / "twitter"
    (raw / "twitter2015_images").mkdir(parents=True)
    lines = []
    for number in range(11):
        (raw / f"twitter2015_images/{number}.png").write_bytes(scenes[number]["png"])
        who, where = PEOPLE[number % 3], PLACES[number % 2]
        lines.append(f"IMGID:{number + 1}\n{who}\tI-PER\nin\tO\nold\tI-LOC\n{where}\tI-LOC\n{number}\tO\n\n")
    (raw / "train.txt").write_text("".join([*lines, "broken\n\n"]))
    options = {"source": "Conll", "source.path": raw, "source.images": "twitter2015_images"}
    args = [word for key, value in options.items() for word in (f"--one.{key}", str(value))]
    run_function(prepare, args=["--out", str(tmp_path / "shards"), *args])
    manifest = json.loads((tmp_path / "shards/manifest.json").read_text())
    assert manifest["entities"] == ["LOC", "PER"] and manifest["pictures_not_found"] == 1
    assert manifest["dropped"] == {"line with another number of columns": 1}
    assert manifest["members"] == {"conll": 11, "png": 10, "txt": 11}

    fusion = choose(f"{FUSION}.early.EarlyFusion", dim=32, num_layers=1, num_heads=2)
    made = config(TAGGING, fusion, "image", "text")
    made["data"] |= {"train": str(tmp_path / "shards"), "val": str(tmp_path / "shards")}
    command(made)
    assert {name: row["support"] for name, row in metrics(made)["per_class"].items()} == {
        "PER": 11,
        "LOC": 11,
    }


def test_a_number_is_learnt_from_what_is_seen(config):
    config = config(REGRESSION, choose(f"{FUSION}.concat.ConcatFusion", dim=16), "image", "audio")
    config["trainer"]["max_steps"] = 60
    command(config)
    found = metrics(config)
    assert found["val/mean_absolute_error"] < 1.5  # always the mean: 2.9
    assert found["val/r2"] > 0.5 and found["val/pearson"] > 0.7
    assert "per_class" not in found


@pytest.mark.parametrize("task", [CLASSIFICATION, TAGGING, REGRESSION], ids=["classes", "tags", "numbers"])
def test_scores_and_loss_do_not_depend_on_the_size_of_batches(task, config):
    fusion = choose(f"{FUSION}.early.EarlyFusion", dim=16, num_layers=1, num_heads=2)
    made = config(task, fusion, "image", "text")
    made["model"]["optim"]["lr"] = 1e-9
    found = []
    for size in (1, 5, 24):
        made["run_dir"] += "i"
        command({**made, "data": {**made["data"], "batch_size": size}})
        found.append({k: v for k, v in metrics(made).items() if k.startswith("val/") or k == "per_class"})
    for other in found[1:]:
        assert other.get("per_class") == found[0].get("per_class")
        for name in found[0].keys() - {"per_class"}:
            assert other[name] == pytest.approx(found[0][name], rel=1e-4), name


def test_a_run_that_is_stopped_and_gone_on_with_ends_with_the_same_bytes(
    matching, tmp_path, monkeypatch, capsys
):
    import os
    import signal

    from stages.transfer import Transfer

    matching["model"]["masking"] = {"share": 0.3}
    matching["trainer"]["max_steps"] = 5
    command({**matching, "run_dir": str(tmp_path / "unbroken")})
    losses, calls = Transfer.losses, []

    def interrupted(stage, batch):
        calls.append(batch)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return losses(stage, batch)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(Transfer, "losses", interrupted)
        command(matching)
    assert stopped.value.code == 75
    command(matching)

    def weights(folder):
        return {p.parent.name: p.read_bytes() for p in Path(folder, "parts").glob("*/weights.safetensors")}

    assert weights(matching["run_dir"]) == weights(tmp_path / "unbroken")
    unbroken = metrics({"run_dir": tmp_path / "unbroken"})
    assert metrics(matching)["per_class"] == unbroken["per_class"]


def test_validate_takes_the_weights_of_the_run(matching, capsys):
    command(matching)
    there = metrics(matching)
    capsys.readouterr()
    command(matching, do="validate")
    shown = capsys.readouterr().out
    assert f"validating {matching['run_dir']}/parts" in shown
    assert f"accuracy {there['val/accuracy']:.4f}" in shown


def test_validate_without_a_run_is_refused(matching, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(matching, do="validate")
    assert stopped.value.code == 2
    assert "holds nothing to validate: run fit first" in capsys.readouterr().err


def test_its_parts_fill_the_slots_of_another_run(matching, tmp_path):
    command(matching)
    there = Path(matching["run_dir"], "parts")
    model = matching["model"] | {"fusion": part(there / "fusion"), "task": part(there / "task")}
    model["encoders"] = {name: part(there / f"encoders.{name}") for name in ("audio", "image")}
    model["optim"] = {"lr": 1e-12}
    again = matching | {"model": model, "run_dir": str(tmp_path / "again")}
    command(again)
    assert metrics(again)["per_class"] == metrics(matching)["per_class"]


def test_everything_but_the_task_may_be_frozen(matching):
    from modules import parts

    matching["model"]["lr_factors"] = {"encoders": 0, "fusion": 0}
    command(matching)
    loaded = parts.load(matching["run_dir"] + "/parts/encoders.image").state_dict()
    before = parts.load(matching["model"]["encoders"]["image"]["init_args"]["path"]).state_dict()
    torch.testing.assert_close(loaded, before, rtol=0, atol=0)


# ---- refused


def test_classes_that_the_shards_do_not_have_are_refused_by_name(matching, capsys, monkeypatch):
    matching["model"]["task"]["init_args"]["classes"] = ["match", "different"]
    message = refusal(matching, capsys, monkeypatch)
    assert "data.train: 12 of 24 samples looked at have a label that the model cannot take" in message
    assert "'other' is not one of match, different (12 ×)" in message


def test_entities_that_the_shards_do_not_have_are_refused_by_name(config, capsys, monkeypatch):
    task = choose(f"{TASKS}.tagging.Tagging", entities=["PER"])
    fusion = choose(f"{FUSION}.early.EarlyFusion", dim=16, num_heads=2)
    message = refusal(config(task, fusion, "text"), capsys, monkeypatch)
    assert "'B-LOC' is not one of O, B-PER, I-PER" in message


def test_numbers_out_of_range_are_refused(config, capsys, monkeypatch):
    task = choose(f"{TASKS}.regression.Regression", high=4.0)
    message = refusal(
        config(task, choose(f"{FUSION}.concat.ConcatFusion", dim=16), "image"), capsys, monkeypatch
    )
    assert "number_out_of_range: 5.0, expected -inf to 4.0" in message


def test_shards_without_labels_are_refused(matching, scenes_shards, capsys, monkeypatch):
    matching["data"]["train"] = str(scenes_shards)
    assert "all of ['label']" in refusal(matching, capsys, monkeypatch)


@pytest.mark.parametrize(
    ("fusion", "modalities", "message"),
    [
        ("gated.GatedFusion", ["image", "text"], "does not keep the tokens of the text"),
        ("early.EarlyFusion", ["image", "audio"], "tags the words of 'text'"),
        ("cross_attention.CrossAttentionFusion", ["text"], "joins 2 modalities or more"),
    ],
)
def test_tagging_that_cannot_work_is_refused(fusion, modalities, message, config, capsys, monkeypatch):
    config = config(TAGGING, choose(f"{FUSION}.{fusion}", dim=16), *modalities)
    assert message in refusal(config, capsys, monkeypatch)


def test_synonyms_for_tagged_words_are_refused(config, capsys, monkeypatch):
    config = config(TAGGING, choose(f"{FUSION}.early.EarlyFusion", dim=16, num_heads=2), "text")
    config["data"]["augment"] = {"text": {"synonyms": "wordnet", "synonym_share": 0.5}}
    assert "unexpected keyword argument 'synonym" in refusal(config, capsys, monkeypatch)


def test_a_part_of_another_kind_or_width_is_refused(matching, aligned_parts, tmp_path, capsys, monkeypatch):
    from modules import parts
    from modules.fusion.concat import ConcatFusion

    matching["model"]["fusion"] = part(aligned_parts / "projections.image")
    with monkeypatch.context() as patch:
        assert "a fusion was expected, found a Projection" in refusal(matching, capsys, patch)
    parts.save(ConcatFusion({"image": 7}, 8), tmp_path / "fusion")
    matching["model"]["fusion"] = part(tmp_path / "fusion")
    message = refusal(matching, capsys, monkeypatch)
    assert (
        "built for no audio, whose encoder is 32 wide; for image 7 wide, whose encoder is 32 wide" in message
    )


def test_an_encoder_named_as_the_label_is_refused(config, aligned_parts, capsys, monkeypatch):
    made = config(CLASSIFICATION, choose(f"{FUSION}.concat.ConcatFusion", dim=16), "image")
    made["model"]["encoders"]["label"] = part(aligned_parts / "encoders.text")
    assert "rename the encoder" in refusal(made, capsys, monkeypatch)


def test_a_task_of_another_width_is_refused(matching, capsys, monkeypatch):
    matching["model"]["task"]["init_args"]["dim"] = 8
    message = refusal(matching, capsys, monkeypatch)
    assert "takes fused tokens 8 wide, the fusion gives 16" in message


@pytest.mark.parametrize("task", [CLASSIFICATION, TAGGING, REGRESSION], ids=["classes", "tags", "numbers"])
def test_a_run_is_planned_without_being_run(task, config, capsys):
    fusion = choose(f"{FUSION}.early.EarlyFusion", dim=16, num_layers=1, num_heads=2)
    made = config(task, fusion, "image", "text")
    made["trainer"]["devices"] = 1
    command(made, do="plan")
    shown = capsys.readouterr().out
    assert "fusion" in shown and "task" in shown
    assert not Path(made["run_dir"]).exists()


@pytest.mark.slow
def test_two_ranks_count_what_one_does(config, tmp_path):
    """Through DDP, with a set whose last batch leaves a rank without a sample."""
    import os
    import subprocess
    import sys

    fusion = choose(f"{FUSION}.early.EarlyFusion", dim=16, num_layers=1, num_heads=2)
    made = config(CLASSIFICATION, fusion, "audio", "image")
    made["model"]["optim"]["lr"] = 1e-9
    made["data"]["batch_size"] = 22
    command(made)
    two = {**made, "run_dir": str(tmp_path / "two")}
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(two))
    options = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    subprocess.run(
        [sys.executable, "-m", "stages.transfer", "fit", "--config", str(path), *options],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    one, two = metrics(made), metrics(two)
    assert two["per_class"] == one["per_class"]
    for name in one:
        if name.startswith("val/"):
            assert two[name] == pytest.approx(one[name], rel=1e-4), name

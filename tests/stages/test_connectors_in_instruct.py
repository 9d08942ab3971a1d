"""The connectors of instruct by its command line: chosen by modality, handed over, gone on with, and refused."""

import json
import logging
from pathlib import Path

import pytest
import torch
import yaml

from modules import parts
from modules.assistant import Assistant
from stages.cli import run

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
SIZES = {"num_latents": 4, "num_layers": 1, "num_heads": 2}
ATTENTION = {
    "class_path": "modules.media_attention.MediaAttention",
    "init_args": {"before": [0], **SIZES},
}
RESAMPLER = {"class_path": "modules.resampler.PerceiverResampler", "init_args": SIZES}


@pytest.fixture(autouse=True)
def no_complaint_of_logging(monkeypatch):
    """Lightning's logger keeps the stderr that it was imported under, which pytest has closed since."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


@pytest.fixture(scope="module")
def instructions(scenes, tmp_path_factory):
    """Shards of conversations about pictures, sounds, both, and neither."""
    from datamodules.shards.writer import write_shards

    samples = []
    for number, scene in enumerate(scenes):
        marks = "".join(mark for bit, mark in enumerate(("<image>", "<audio>")) if number >> bit & 1)
        turns = [
            {"from": "human", "value": f"{marks}a red {number}?"},
            {"from": "gpt", "value": "yes" if number % 2 else "a blue two"},
        ]
        media = {key: scene[key] for key, mark in (("png", "<image>"), ("flac", "<audio>")) if mark in marks}
        text = json.dumps({"id": str(number), "conversations": turns}).encode()
        samples.append({"__key__": f"{number:06d}", "json": text, **media})
    folder = tmp_path_factory.mktemp("instructions") / "instructions"
    write_shards(samples, folder, max_samples=6)
    return folder


@pytest.fixture
def fit(aligned_parts, assistant_parts, instructions, tmp_path):
    """Return a function from model settings to the parts folder of two steps of instruction by the command line."""

    def fit(model: dict, name: str = "run") -> Path:
        def part(folder: Path) -> dict:
            return {"class_path": "modules.parts.load", "init_args": {"path": str(folder)}}

        config = {
            "run_dir": str(tmp_path / name),
            "model": {
                "language_model": part(assistant_parts / "language_model"),
                "encoders": {each: part(aligned_parts / f"encoders.{each}") for each in ("image", "audio")},
                "optim": {"lr": 1e-2},
                **model,
            },
            "data": {"train": str(instructions), "batch_size": 5, "num_workers": 0},
            "trainer": {"accelerator": "cpu", "max_steps": 2, "enable_progress_bar": False},
        }
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(config))
        run("stages.instruct.Instruct", ["fit", "--config", str(file)])
        return tmp_path / name / "parts"

    return fit


def test_each_modality_has_the_connector_that_the_config_names(fit, assistant_parts):
    folder = fit(
        {
            "projectors": {"image": ATTENTION, "audio": RESAMPLER},
            "lr_factors": {"assistant.language_model": 0},
        }
    )
    assistant = Assistant.load(folder)
    kinds = {name: type(part).__name__ for name, part in assistant.projectors.items()}
    assert kinds == {"audio": "PerceiverResampler", "image": "MediaAttention"}
    assert assistant.projectors["image"].layers["0"].attention_gate != 0
    frozen = parts.load(str(assistant_parts / "language_model")).state_dict()
    for name, tensor in assistant.language_model.state_dict().items():
        assert torch.equal(tensor, frozen[name])


def test_another_run_goes_on_with_connectors_that_were_trained(fit):
    first = fit({"projectors": {"image": ATTENTION}, "group": {"audio": 2}}, "first")
    given = {
        name: {"class_path": "modules.parts.load", "init_args": {"path": str(first / f"projectors.{name}")}}
        for name in ("audio", "image")
    }
    model = {
        "language_model": {
            "class_path": "modules.parts.load",
            "init_args": {"path": str(first / "language_model")},
        },
        "encoders": {
            name: {"class_path": "modules.parts.load", "init_args": {"path": str(first / f"encoders.{name}")}}
            for name in ("image", "audio")
        },
        "projectors": given,
        "lr_factors": {"assistant": 0, "assistant.projectors.image": 1},
    }
    second = fit(model, "second")
    before, after = (
        {name: parts.load(str(folder / f"projectors.{name}")).state_dict() for name in ("audio", "image")}
        for folder in (first, second)
    )
    assert all(torch.equal(tensor, after["audio"][name]) for name, tensor in before["audio"].items())
    assert any(not torch.equal(tensor, after["image"][name]) for name, tensor in before["image"].items())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"projectors": {"image": {**ATTENTION, "init_args": {"before": [0, 4], **SIZES}}}},
            "stands before layer 4, the language model has layers 0 to 0",
        ),
        ({"projectors": {"video": RESAMPLER}}, "projectors names video, but there are encoders for"),
        (
            {"projectors": {"audio": RESAMPLER}, "group": {"audio": 2}},
            "both group and projectors name audio",
        ),
        (
            {"projectors": {"audio": {**RESAMPLER, "init_args": {"num_heads": 7}}}},
            "does not divide into 7 heads",
        ),
        (
            {"projectors": {"audio": {**RESAMPLER, "init_args": {"in_dim": 9, "dim": 32, **SIZES}}}},
            "the audio projector goes from 9 to 32, expected from 32",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(model, message, fit, tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        fit(model)
    assert refused.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()

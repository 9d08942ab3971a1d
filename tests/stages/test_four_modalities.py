"""Four modalities at once through align's command line, by the config for it, on samples with any of them."""

import itertools
import logging
from pathlib import Path

import bad_media
import pytest
import torch
import yaml

from datamodules.shards.writer import write_shards
from modules import parts
from modules.encoders.frame_pooling import FramePooling
from stages.cli import run

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
CONFIG = Path(__file__).parents[2] / "configs/align/four.yaml"
MEMBERS = ("flac", "mp4", "png", "txt")
MODALITIES = ("audio", "video", "image", "text")


@pytest.fixture(autouse=True)
def no_complaint_of_logging(monkeypatch):
    """Lightning's logger keeps the stderr that it was imported under, which pytest has closed since."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


def samples(scenes, patterns) -> list[dict[str, bytes | str]]:
    """Return a sample for each pattern of presence, with those of four modalities that it names."""
    found = []
    for number, pattern in enumerate(patterns):
        whole = {**scenes[number % len(scenes)], "mp4": bad_media.clip(frames=3 + number % 4, size=(32, 32))}
        kept = {key: whole[key] for key in itertools.compress(MEMBERS, pattern)}
        found.append({"__key__": f"{number:06d}", **kept})
    return found


@pytest.fixture
def fit(aligned_parts, scenes, tmp_path):
    """Return a function from patterns of presence to the run of as many steps as it takes to see them, and one more."""

    def fit(patterns) -> Path:
        write_shards(samples(scenes, patterns), tmp_path / "four", max_samples=8)
        config = yaml.safe_load(CONFIG.read_text())
        encoders = config["model"]["encoders"]
        for encoder in (*encoders.values(), encoders["video"]["init_args"]["encoder"]):
            if encoder["class_path"] == "modules.parts.load":
                encoder["init_args"]["path"] = str(aligned_parts / Path(encoder["init_args"]["path"]).name)
        config["model"]["dim"], config["run_dir"] = 8, str(tmp_path / "run")
        config["data"] = {"train": str(tmp_path / "four"), "batch_size": 5, "num_workers": 0}
        config["trainer"] |= {
            "accelerator": "cpu",
            "max_steps": len(patterns) // 5 + 1,
            "enable_progress_bar": False,
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        run("stages.align.Align", ["fit", "--config", str(tmp_path / "config.yaml")])
        return tmp_path / "run"

    return fit


def test_samples_with_any_of_four_modalities_train_all_four_encoders(fit, aligned_parts):
    every = [pattern for pattern in itertools.product((False, True), repeat=4) if any(pattern)]
    folder = fit(every) / "parts"

    def weights(path: Path) -> dict[str, torch.Tensor]:
        encoder = parts.load(str(path))
        return dict((encoder.encoder if isinstance(encoder, FramePooling) else encoder).named_parameters())

    after = {name: weights(folder / f"encoders.{name}") for name in MODALITIES}
    for name in MODALITIES:
        assert parts.load(str(folder / f"projections.{name}")).out_dim == 8
        before = weights(aligned_parts / f"encoders.{'image' if name == 'video' else name}")
        assert all(weight.isfinite().all() for weight in after[name].values())
        assert trained(before, after[name]) > 0.8, name
    assert trained(after["image"], after["video"]) > 0.8, "the encoder of frames is not the one of pictures"


def trained(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    """Return the share of vectors (biases, norms) that a gradient has moved: matrices would move by their decay too."""
    assert before.keys() == after.keys()
    changes = [(after[name] - before[name]).abs().max() for name in before if before[name].ndim == 1]
    return sum(float(change > 1e-5) for change in changes) / len(changes)


def test_samples_that_all_lack_one_of_the_four_are_refused(fit, capsys):
    silent = [(False, *pattern) for pattern in itertools.product((False, True), repeat=3) if any(pattern)]
    with pytest.raises(SystemExit) as refused:
        fit(silent)
    assert refused.value.code == 2
    assert "no training sample has audio together with another" in capsys.readouterr().err

"""Selection by quality in a stage: what is broken counts less after a short training, and a lost modality is borne."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from datamodules.modalities.build import build_modalities
from datamodules.shards.writer import write_shards
from datamodules.stream import batches
from modules import parts
from stages.cli import run

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 220), "white": (230, 230, 230)}


@pytest.fixture(autouse=True)
def no_complaint_of_logging(monkeypatch):
    """Lightning's logger keeps the stderr that it was imported under, which pytest has closed since."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


def sample(number: int, broken: str) -> dict[str, bytes | str]:
    """Return a colour as picture, text and class, of which the picture (black or noise) or the text says nothing."""
    from PIL import Image

    draw = np.random.default_rng(number)
    name = list(COLOURS)[number // 3 % 4]
    pixels = draw.integers(0, 25, (32, 32, 3)) + np.array(COLOURS[name])
    if broken == "black":
        pixels = np.zeros((32, 32, 3))
    elif broken == "noise":
        pixels = draw.integers(0, 256, (32, 32, 3))
    picture = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(picture, "png")
    text = "and so on, and so on" if broken == "text" else f"a {name}"
    return {
        "__key__": f"{number:06d}",
        "png": picture.getvalue(),
        "txt": text.encode(),
        "cls": name.encode(),
    }


BROKEN = ["text", "black", "noise"]


@pytest.fixture(scope="module")
def trained(aligned_parts, tmp_path_factory) -> tuple[Path, Path]:
    """The parts of a short transfer with selection by quality, and shards that it has not seen."""
    folder = tmp_path_factory.mktemp("quality")
    for name, numbers in (("train", range(240)), ("test", range(240, 288))):
        write_shards((sample(n, BROKEN[n % 3]) for n in numbers), folder / name, max_samples=100)
    config = {
        "run_dir": str(folder / "run"),
        "model": {
            "encoders": {
                name: {
                    "class_path": "modules.parts.load",
                    "init_args": {"path": str(aligned_parts / f"encoders.{name}")},
                }
                for name in ("image", "text")
            },
            "fusion": {
                "class_path": "modules.fusion.quality_fusion.QualityFusion",
                "init_args": {
                    "floor": 0.1,
                    "fusion": {
                        "class_path": "modules.fusion.weighted.WeightedFusion",
                        "init_args": {"dim": 16},
                    },
                },
            },
            "task": {
                "class_path": "modules.tasks.classification.Classification",
                "init_args": {"classes": list(COLOURS)},
            },
            "optim": {"lr": 5e-3},
        },
        "data": {"train": str(folder / "train"), "batch_size": 24, "num_workers": 0},
        "trainer": {"accelerator": "cpu", "max_steps": 60, "enable_progress_bar": False},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    run("stages.transfer.Transfer", ["fit", "--config", str(folder / "config.yaml")])
    return folder / "run/parts", folder / "test"


@pytest.fixture(scope="module")
def answered(trained):
    """Return a function from lost modalities to what the model makes of the test set: fused, right or wrong, broken."""
    folder, shards = trained
    encoders = {name: parts.load(str(folder / f"encoders.{name}")).eval() for name in ("image", "text")}
    fusion, task = (parts.load(str(folder / name)).eval() for name in ("fusion", "task"))
    modalities = build_modalities(
        task.input_configs({name: encoder.input_config for name, encoder in encoders.items()})
    )

    @torch.no_grad()
    def answer(*lost: str):
        [batch] = list(batches(shards, modalities, 48))
        inputs, rows, truth = task.split(batch.inputs, batch.rows)
        here = {name: encoder for name, encoder in encoders.items() if name not in lost}
        tokens = {name: encoder(inputs[name]) for name, encoder in here.items()}
        fused = fusion(tokens, {name: rows[name] for name in here}, len(batch))
        broken = np.array([BROKEN[int(key) % 3] for key in batch.keys])
        logits = task.linear(fused.tokens.pooled())
        return fused, (logits.argmax(1) == truth.inputs["label"]).numpy(), broken

    return answer


def test_a_black_or_noisy_picture_gets_less_weight_than_a_clean_one(answered):
    fused, right, broken = answered()
    weight = fused.weights["image"].numpy()
    clean = weight[broken == "text"]
    for kind in ("black", "noise"):
        assert weight[broken == kind].max() < clean.min()
        assert weight[broken == kind].mean() < 0.5 * clean.mean()
    assert right.mean() > 0.9


def test_without_a_modality_it_answers_from_the_other_and_guesses_where_that_is_broken(answered):
    fused, right, broken = answered("text")
    assert (fused.weights["image"] == 1).all()
    assert right[broken == "text"].mean() > 0.9 > 0.6 > right[broken != "text"].mean()
    _, right, broken = answered("image")
    assert right[broken != "text"].mean() > 0.9


def test_without_any_modality_it_still_answers(answered):
    fused, right, _ = answered("image", "text")
    assert not fused.tokens.mask.any() and len(right) == 48

"""A tiny aligned space, an assistant and a few scenes on disk, as finished stages leave them."""

import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

COLOURS = ["red", "green", "blue", "white", "yellow", "purple"]
TRUNK = {
    "model_type": "modernbert",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "global_attn_every_n_layers": 1,
}
VIT = {**TRUNK, "model_type": "vit", "image_size": 32, "patch_size": 8}
VIT.pop("global_attn_every_n_layers")
LLAMA = {**VIT, "model_type": "llama", "max_position_embeddings": 256}
del LLAMA["image_size"], LLAMA["patch_size"]


def scene(number: int) -> dict[str, bytes | str]:
    """Return a sample: a plain colour and a tone, each with some noise, and a caption."""
    import soundfile
    from PIL import Image

    draw = np.random.default_rng(number)
    pixels = draw.integers(0, 60, (48, 40, 3)) + np.array([30 * number % 190, 70, 20 * number % 170])
    picture, sound = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(picture, "png")
    seconds = np.arange(16000 * (3 + number % 5) // 10) / 16000
    tone = 0.3 * np.sin(2 * np.pi * (200 + 60 * number) * seconds) + 0.02 * draw.standard_normal(len(seconds))
    soundfile.write(sound, tone, 16000, format="flac")
    caption = f"a {COLOURS[number % 6]} {number} " + "and so on " * (number % 3)
    return {
        "__key__": f"{number:06d}",
        "png": picture.getvalue(),
        "flac": sound.getvalue(),
        "txt": caption.encode(),
    }


@pytest.fixture(scope="session")
def make_scene() -> Callable[[int], dict[str, bytes | str]]:
    """What makes the sample of a number."""
    return scene


@pytest.fixture(scope="session")
def scenes() -> list[dict[str, bytes | str]]:
    """Eleven samples with picture, sound and text."""
    return [scene(number) for number in range(11)]


@pytest.fixture(scope="session")
def scenes_shards(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards that holds the scenes."""
    from datamodules.shards.writer import write_shards

    folder = tmp_path_factory.mktemp("shards") / "scenes-test"
    write_shards(scenes, folder, max_samples=6)
    return folder


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer learnt from a line."""
    from datamodules.preparation.tokenizer import train_tokenizer

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(
        train_tokenizer(["a red seven left of a blue two, and so on"], vocab_size=300), encoding="utf-8"
    )
    return str(path)


@pytest.fixture(scope="session")
def aligned_parts(tokenizer_path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of an alignment with random weights."""
    import torch

    from modules import parts
    from modules.encoders.audio import AudioEncoder
    from modules.encoders.huggingface import ImageEncoder, TextEncoder
    from modules.projections import Projection

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("align") / "parts"
    encoders = {
        "image": ImageEncoder(config=VIT),
        "audio": AudioEncoder(TRUNK, sampling_rate=16000, max_seconds=2.0, num_mels=20),
        "text": TextEncoder(config=TRUNK, tokenizer=tokenizer_path, max_tokens=48),
    }
    for modality, encoder in encoders.items():
        projection = Projection(encoder.dim, 24)
        torch.nn.init.normal_(projection.query)
        parts.save(encoder, folder / f"encoders.{modality}")
        parts.save(projection, folder / f"projections.{modality}")
    return folder


@pytest.fixture(scope="session")
def assistant_parts(
    aligned_parts: Path, tokenizer_path: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The parts of an instructed assistant with random weights, on the encoders of `aligned_parts`."""
    import torch

    from modules import parts
    from modules.language_model import LanguageModel
    from modules.projections import Projector

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("instruct") / "parts"
    language_model = LanguageModel(config=LLAMA, tokenizer=tokenizer_path, max_tokens=128)
    parts.save(language_model, folder / "language_model")
    for modality in ("image", "audio"):
        encoder = parts.load(str(aligned_parts / f"encoders.{modality}"))
        parts.save(encoder, folder / f"encoders.{modality}")
        parts.save(Projector(encoder.dim, language_model.dim, group=2), folder / f"projectors.{modality}")
    return folder


@pytest.fixture(autouse=True)
def no_complaint_of_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's logger keeps the stderr that it was imported under, which pytest has closed since."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


@pytest.fixture
def config(aligned_parts: Path, scenes_shards: Path, tmp_path: Path) -> dict:
    """An alignment of two steps that has nothing wrong."""
    encoders = {
        name: {
            "class_path": "modules.parts.load",
            "init_args": {"path": str(aligned_parts / f"encoders.{name}")},
        }
        for name in ("audio", "image", "text")
    }
    return {
        "run_dir": str(tmp_path / "run"),
        "model": {
            "encoders": encoders,
            "dim": 8,
            "objective": {"class_path": "modules.objectives.contrastive.InfoNCE"},
            "optim": {"lr": 1e-2},
        },
        "data": {"train": str(scenes_shards), "batch_size": 4, "num_workers": 0},
        "trainer": {"accelerator": "cpu", "max_steps": 2, "enable_progress_bar": False},
    }

"""Tiny encoders and a tiny tokenizer, built from configs: nothing is downloaded; and two ranks to compute on."""

import gc
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from sabotage import Run

TEXTS = ["a red seven left of a blue two", "a green five above a white nine", "Which digit is shown? yes no"]
TRUNK = {
    "model_type": "modernbert",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "global_attn_every_n_layers": 1,
}
VIT = {
    "model_type": "vit",
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
}


@pytest.fixture(scope="session")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[int], Any]], list[Any]]:
    """A function that runs `make(rank)` in two processes joined by gloo and returns what each made, by rank.

    `make` is a function of a test's file; what it returns is tensors and plain values. Processes are spawned: autograd
    refuses to run in a forked one where the parent has used a GPU.
    """

    def run(make: Callable[[int], Any]) -> list[Any]:
        folder = tmp_path_factory.mktemp("ranks")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.multiprocessing.spawn(_one_rank, (port, str(folder), make), nprocs=2)
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]

    return run


def _one_rank(rank: int, port: int, folder: str, make: Callable[[int], Any]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(make(rank), Path(folder) / f"{rank}.pt")
    gc.collect()  # a replica that outlives the interpreter aborts the process
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A byte-level BPE tokenizer trained on a few lines."""
    from datamodules.preparation.tokenizer import train_tokenizer

    path: Path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train_tokenizer(TEXTS, vocab_size=300), encoding="utf-8")
    return str(path)


@pytest.fixture
def text_encoder(tokenizer_path: str):
    from modules.encoders.huggingface import TextEncoder

    return TextEncoder(config=TRUNK, tokenizer=tokenizer_path, max_tokens=16).eval()


@pytest.fixture
def image_encoder():
    from modules.encoders.huggingface import ImageEncoder

    return ImageEncoder(config=VIT).eval()


@pytest.fixture
def audio_encoder():
    from modules.encoders.audio import AudioEncoder

    return AudioEncoder(TRUNK, sampling_rate=16000, max_seconds=2.0, num_mels=20).eval()


@pytest.fixture
def language_model(tokenizer_path: str):
    from modules.language_model import LanguageModel

    return LanguageModel(config=LLAMA, tokenizer=tokenizer_path, max_tokens=64).eval()


@pytest.fixture
def text_inputs() -> dict[str, torch.Tensor]:
    mask = torch.arange(6) < torch.tensor([[6], [3], [1]])
    return {"input_ids": torch.randint(10, 90, (3, 6)) * mask, "attention_mask": mask}


@pytest.fixture
def image_inputs() -> dict[str, torch.Tensor]:
    return {"pixels": torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)}


@pytest.fixture
def audio_inputs() -> dict[str, torch.Tensor]:
    lengths = torch.tensor([16000, 9000, 4000])
    waveform = torch.randn(3, 16000) * 0.1
    return {"waveform": waveform * (torch.arange(16000) < lengths.unsqueeze(1)), "lengths": lengths}


@pytest.fixture
def finished(tokenizer_path: str, tmp_path: Path) -> Run:
    """What a stage leaves: a projection and a text encoder, as parts and in a checkpoint."""
    from modules import parts
    from modules.encoders.huggingface import TextEncoder
    from modules.projections import Projection

    modules = {
        "projections.image": Projection(8, 4),
        "encoders.text": TextEncoder(
            config={**TRUNK, "num_hidden_layers": 1}, tokenizer=tokenizer_path, max_tokens=16
        ),
    }
    for name, module in modules.items():
        parts.save(module, tmp_path / "parts" / name)
    held = {
        name: {"card": parts.describe(module), "assets": module.assets(), "prefix": f"{name}."}
        for name, module in modules.items()
    }
    state = {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    torch.save({"parts": held, "state_dict": state}, tmp_path / "step-00000002.ckpt")
    return Run(tmp_path / "parts", tmp_path / "step-00000002.ckpt")

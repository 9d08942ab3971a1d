"""Parameters that no loss depends on: DDP does not wait for them, and they stay as they are."""

import os
from pathlib import Path

import pytest
import torch
from commands import fit, weights
from safetensors.torch import load, load_file
from torch.utils.checkpoint import checkpoint

from modules import parts
from modules.encoders.huggingface import ImageEncoder
from stages.idle import leaves

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
GATED = {"class_path": "modules.fusion.gated.GatedFusion", "init_args": {"dim": 8}}
LATENT = {"class_path": "modules.fusion.latent.LatentFusion", "init_args": {"dim": 4, "hidden": 8}}
MATCHING, CAPTIONING = "modules.objectives.matching.Matching", "modules.objectives.captioning.Captioning"
DECODER = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
CONVNEXT = {"model_type": "convnext", "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
"""Has a norm for the pooled picture, behind the map that is read."""


@pytest.fixture
def alone():
    """Let Lightning start a process group of this process alone, and leave nothing of it."""
    before = dict(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


def matching(fusion: dict) -> dict:
    return {"class_path": MATCHING, "init_args": {"fusion": fusion}}


def compared(config: dict, ddp_run: Path, caplog: pytest.LogCaptureFixture) -> tuple[str, dict[str, bytes]]:
    """Run in one process and under DDP; return what was named as idle, and the weights where they are the same."""
    fit(config)
    [named] = [message for message in caplog.messages if "no loss depends on" in message]
    fit({**config, "run_dir": str(ddp_run)}, "--trainer.strategy=ddp", "--trainer.devices=1")
    assert weights(ddp_run) == weights(config["run_dir"])
    return named, weights(ddp_run)


@pytest.fixture
def config(config, alone) -> dict:
    """An alignment of pictures with texts in three steps, with much decay."""
    del config["model"]["encoders"]["audio"]
    config["model"]["optim"]["weight_decay"] = 1.0
    config["trainer"] |= {"max_steps": 3, "gradient_clip_val": 1.0}
    return config


@pytest.mark.parametrize(
    ("fusion", "idle"), [(GATED, "projections.image"), (LATENT, "objective.fusion")], ids=["gated", "latent"]
)
def test_what_matching_does_not_ask_is_named_and_ddp_trains_as_one_process(
    fusion, idle, config, caplog, tmp_path
):
    config["model"]["objective"] = matching(fusion)
    named, _ = compared(config, tmp_path / "ddp", caplog)
    assert idle in named


def test_a_text_encoder_that_captioning_does_not_read_keeps_its_bytes(
    config, tokenizer_path, aligned_parts, caplog, tmp_path
):
    settings = {"widths": {"image": 32}, "config": DECODER, "tokenizer": tokenizer_path}
    config["model"]["objective"] = {"class_path": CAPTIONING, "init_args": settings}
    named, after = compared(config, tmp_path / "ddp", caplog)
    assert "encoders.text" in named and "encoders.image" not in named
    assert after["encoders.text"] == (aligned_parts / "encoders.text/weights.safetensors").read_bytes()


def test_a_layer_behind_what_is_read_of_an_encoder_keeps_its_weights(config, caplog, tmp_path):
    torch.manual_seed(0)
    parts.save(ImageEncoder(config=CONVNEXT, image_size=32), tmp_path / "convnext")
    config["model"]["encoders"]["image"]["init_args"]["path"] = str(tmp_path / "convnext")
    named, after = compared(config, tmp_path / "ddp", caplog)
    assert "encoders.image (32 parameters)" in named
    before, after = load_file(tmp_path / "convnext/weights.safetensors"), load(after["encoders.image"])
    same = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    assert same == {"trunk.layernorm.weight", "trunk.layernorm.bias"}


def test_leaves_are_found_behind_whatever_forgets_its_activations():
    first, second, idle = (torch.nn.Linear(2, 2) for _ in range(3))
    outcome = second(checkpoint(first, torch.ones(1, 2), use_reentrant=False)).sum()
    assert leaves(outcome) == {*first.parameters(), *second.parameters()}
    assert leaves(outcome).isdisjoint(idle.parameters())

"""A pipeline by the command line: what it cannot divide is refused before the first step, with what to do instead."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from commands import part, refusal

from datamodules.shards.writer import write_shards
from modules import collectives
from stages.strategies import Pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
INSTRUCT = "stages.instruct.Instruct"


@pytest.fixture(autouse=True)
def no_complaint_of_logging(monkeypatch):
    """Lightning's logger keeps the stderr that it was imported under, which pytest has closed since."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


@pytest.fixture(autouse=True)
def alone_again():
    """Leave no group of processes to the next test."""
    yield
    collectives.use_group(None)
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture
def config(aligned_parts, scenes_shards, tmp_path):
    """A run under a pipeline of one rank, without a model."""
    return {
        "run_dir": str(tmp_path / "run"),
        "model": {
            "encoders": {name: part(aligned_parts / f"encoders.{name}") for name in ("image", "audio")}
        },
        "data": {"train": str(scenes_shards), "batch_size": 4, "num_workers": 0},
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 1,
            "enable_progress_bar": False,
            "strategy": {"class_path": "stages.strategies.Pipeline"},
        },
    }


@pytest.fixture
def instruct(config, scenes, assistant_parts, tmp_path):
    """The same, of an instruction."""
    turns = [{"from": "human", "value": "<image>\na red seven?"}, {"from": "gpt", "value": "yes"}]
    text = json.dumps({"conversations": turns}).encode()
    samples = [{"__key__": scene["__key__"], "png": scene["png"], "json": text} for scene in scenes]
    write_shards(samples, tmp_path / "instructions", max_samples=6)
    config["model"]["language_model"] = part(assistant_parts / "language_model")
    config["data"]["train"] = str(tmp_path / "instructions")
    return config


def test_a_stage_without_a_language_model_is_refused(config, capsys, monkeypatch):
    config["model"] |= {"dim": 8, "objective": {"class_path": "modules.objectives.contrastive.InfoNCE"}}
    message = refusal(config, capsys, monkeypatch)
    assert "a pipeline divides the layers of one language model, Align has 0" in message
    assert "configs/trainer/ddp.yaml" in message


def test_media_attention_is_refused(instruct, capsys, monkeypatch):
    sizes = {"num_latents": 4, "num_layers": 1, "num_heads": 2}
    looks = {"class_path": "modules.media_attention.MediaAttention", "init_args": {"before": [0], **sizes}}
    instruct["model"]["projectors"] = {"image": looks}
    assert "take a Projector or a PerceiverResampler" in refusal(instruct, capsys, monkeypatch, INSTRUCT)


def test_ranks_that_make_no_whole_pipelines_are_refused(instruct, capsys, monkeypatch):
    instruct["trainer"]["strategy"]["init_args"] = {"size": 2}
    message = refusal(instruct, capsys, monkeypatch, INSTRUCT)
    assert "size is 2, which does not divide the 1 ranks" in message


def test_no_microbatches_are_refused(instruct, capsys, monkeypatch):
    instruct["trainer"]["strategy"]["init_args"] = {"microbatches": 0}
    assert "expected positive numbers, got microbatches=0" in refusal(instruct, capsys, monkeypatch, INSTRUCT)


def test_scaled_gradients_are_refused():
    with pytest.raises(ValueError, match=r"set trainer.precision to bf16-mixed or 32-true"):
        Pipeline().setup(SimpleNamespace(precision="16-mixed"))

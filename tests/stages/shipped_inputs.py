"""What the shipped configs of the training stages need, tiny: shards of a few samples, parts with random weights."""

import importlib
import json
from pathlib import Path

import bad_media
import numpy as np
import torch
import yaml

from datamodules.modalities import features
from datamodules.preparation.tokenizer import train_tokenizer
from datamodules.shards.writer import write_shards
from modules import parts
from modules.encoders.discrete_units import DiscreteUnits
from modules.encoders.waveform_cnn import WaveformCNN

CONFIGS = Path(__file__).parents[2] / "configs"
PRETRAINED = {
    "pretrain-text": "text_masked",
    "pretrain-lm": "text_causal",
    "pretrain-image": "image_supervised",
    "pretrain-audio": "audio_supervised",
    "pretrain-image-tokenizer": "image_tokenizer",
}
SHARDS = {
    "demo/shards/text-train": ["txt"],
    "demo/shards/text-val": ["txt"],
    "demo/shards/digits-train": ["png", "cls"],
    "demo/shards/digits-test": ["png", "cls"],
    "demo/shards/words-train": ["flac", "cls"],
    "demo/shards/words-test": ["flac", "cls"],
    "demo/shards/scenes-train": ["png", "flac", "txt"],
    "demo/shards/scenes-val": ["png", "flac", "txt"],
    "demo/shards/videos": ["png", "flac", "txt"],
    "demo/shards/instructions-train": ["png", "flac", "json"],
    "demo/shards/instructions-test": ["png", "flac", "json"],
    "demo/drawn-shards/drawings-train": ["png"],
    "demo/matches/train": ["image.safetensors", "audio.safetensors", "cls"],
    "demo/matches/test": ["image.safetensors", "audio.safetensors", "cls"],
    "demo/shards-features/scenes-train": ["image.safetensors", "audio.safetensors", "txt"],
    "demo/shards-features/scenes-val": ["image.safetensors", "audio.safetensors", "txt"],
    "four/train": ["png", "flac", "txt", "mp4"],
    "four/val": ["png", "flac", "txt", "mp4"],
    "reviews/train": ["png", "flac", "txt", "num"],
    "reviews/val": ["png", "flac", "txt", "num"],
    "twitter/train": ["png", "conll"],
    "twitter/valid": ["png", "conll"],
    "web/shards/pairs": ["png", "txt"],
    "web/shards/instructions": ["png", "flac", "json"],
}
HUB = {
    "answerdotai/ModernBERT-base": {"model_type": "modernbert"},
    "google-bert/bert-base-cased": {"model_type": "bert"},
    "google/vit-base-patch16-224-in21k": {"model_type": "vit"},
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
}
"""Models of the hub as plans see them: a config without weights, in a folder where the commands are run."""
TALK = {
    "conversations": [
        {"from": "human", "value": "<image>\n<audio>\nWhat is it?"},
        {"from": "gpt", "value": "a red two"},
    ]
}


def make(root: Path, scene: dict[str, bytes], samples: int = 64) -> None:
    """Leave under `root` what `configs/*` name; of models of the hub what a plan reads.

    Args:
        root: an empty folder, from which the configs' commands can then be run.
        scene: a sample with `png`, `flac` and `txt`.
        samples: in each set.
    """
    runs = root / "runs"
    tokenizer = runs / "demo/shards/text-train/tokenizer.json"
    tokenizer.parent.mkdir(parents=True)
    tokenizer.write_text(train_tokenizer(["a red two and a blue seven"], vocab_size=300), encoding="utf-8")
    for run, name in PRETRAINED.items():
        model = yaml.safe_load((CONFIGS / f"pretrain/{name}.yaml").read_text())["model"]
        given = {**model["encoder"]["init_args"]}
        if "tokenizer" in given:
            given["tokenizer"] = str(tokenizer)
        module, _, kind = model["encoder"]["class_path"].rpartition(".")
        part = getattr(importlib.import_module(module), kind)(**given)
        where = "align" if run in ("pretrain-image", "pretrain-audio") else None
        for folder in (run, *([where] if where else [])):
            parts.save(part, runs / "demo" / folder / "parts" / f"encoders.{model['modality']}")
    text = parts.load(str(runs / "demo/pretrain-text/parts/encoders.text"))
    parts.save(text, runs / "demo/align/parts/encoders.text")
    units = DiscreteUnits(WaveformCNN(dim=8), num_units=5, dim=8)
    torch.nn.init.normal_(units.centroids)
    parts.save(units, runs / "demo/audio-units")
    _make_hub(root, tokenizer)
    parts.save(text, runs / "web/pretrain-text/parts/encoders.text")
    image = parts.load(str(runs / "demo/align/parts/encoders.image"))
    parts.save(image, runs / "web/align/parts/encoders.image")
    for name, members in SHARDS.items():
        sample = {member: _content(member, name, scene, runs) for member in members}
        each = [{"__key__": f"{number:06d}", **sample} for number in range(samples)]
        write_shards(each, runs / name, max_samples=samples)


def _make_hub(root: Path, tokenizer: Path) -> None:
    known = {"pad_token": "[PAD]", "mask_token": "[MASK]", "tokenizer_class": "PreTrainedTokenizerFast"}
    pictures = {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}}
    for name, config in HUB.items():
        folder = root / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text(tokenizer.read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(known))
        (folder / "preprocessor_config.json").write_text(json.dumps(pictures))


def _content(member: str, shards: str, scene: dict[str, bytes], runs: Path) -> bytes:
    if member in scene:
        return scene[member]
    if member.endswith(".safetensors"):
        modality = member.partition(".")[0]
        run = "align" if "matches" in shards else f"pretrain-{modality}"
        fingerprint = parts.fingerprint_of(str(runs / f"demo/{run}/parts/encoders.{modality}"))
        return features.pack(np.zeros((4, 128), np.float16), np.ones(4, bool), fingerprint)
    plain = {
        "cls": b"matched" if "matches" in shards else b"two",
        "num": b"3.5",
        "json": json.dumps(TALK).encode(),
        "conll": b"Paris\tB-LOC\nis\tO\n",
    }
    return plain[member] if member in plain else bad_media.clip(frames=8, size=(32, 32))

"""Every test runs offline, on one thread and from a fixed seed."""

import os

# Read when torch, tokenizers and huggingface_hub are imported, so they are set before any test is.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import random
import signal
import sys

import numpy
import pytest

# A shell has what it runs in the background ignore Ctrl-C, which some tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Seed every generator in use; torch only where a test has imported it, since that costs seconds."""
    random.seed(0)
    numpy.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def captioners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Family -> the folder of a tiny captioning model with random weights, tokenizer and image processor."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        CLIPImageProcessor,
        GitConfig,
        GitForCausalLM,
        GPT2Config,
        PreTrainedTokenizerFast,
        VisionEncoderDecoderConfig,
        VisionEncoderDecoderModel,
        ViTConfig,
        ViTImageProcessor,
    )

    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    words = [
        *special.values(),
        "a",
        "photo",
        "of",
        "red",
        "green",
        "blue",
        "dog",
        "cat",
        "on",
        "the",
        "grass",
    ]
    backend = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="[SEP]", bos_token="[CLS]", **special
    )

    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"vocab_size": len(words), "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    vision = {**size, "image_size": 32, "patch_size": 16}
    square = {"height": 32, "width": 32}
    torch.manual_seed(0)
    text = {**size, **ids, "sep_token_id": 3, "encoder_hidden_size": 16}
    blip = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=8))
    git = GitForCausalLM(GitConfig(vision_config=vision, **size, **ids))
    gpt2 = GPT2Config(n_embd=16, n_layer=1, n_head=2, **ids)
    joined = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**vision), gpt2)
    vit_gpt2 = VisionEncoderDecoderModel(joined)
    for config in (vit_gpt2.config, vit_gpt2.generation_config):
        config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3

    folder = tmp_path_factory.mktemp("captioners")
    families = {
        "blip": (blip, BlipImageProcessor(size=square)),
        "git": (git, CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square)),
        "vit-gpt2": (vit_gpt2, ViTImageProcessor(size=square)),
    }
    for family, (model, images) in families.items():
        for saved in (model, images, tokenizer):
            saved.save_pretrained(folder / family)
    return {family: str(folder / family) for family in families}

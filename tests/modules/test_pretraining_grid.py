"""Every pretraining objective over every encoder family: it trains the encoder, or says at once that it cannot."""

import copy
from collections.abc import Callable

import pytest
import torch
from families import builders, inputs_of
from walk import classes

import modules.objectives
from modules.encoders.encoder import Encoder
from modules.objectives.causal_language import CausalLanguage
from modules.objectives.classification import Classification
from modules.objectives.contrastive_audio import ContrastiveAudio
from modules.objectives.distillation import FeatureDistillation, LogitDistillation
from modules.objectives.masked_audio import MaskedAudio
from modules.objectives.masked_autoencoder import MaskedAutoencoder
from modules.objectives.masked_image import MaskedImage
from modules.objectives.masked_language import MaskedLanguage
from modules.objectives.masked_region import MaskedRegion
from modules.objectives.pretraining import PretrainingObjective
from modules.objectives.reconstruction import Reconstruction
from modules.objectives.relation_distillation import RelationDistillation

FAMILIES = sorted(builders("no tokenizer is read before one is built"))
HEARD = {
    **{
        family: [f"trunk.encoder.layer.1.attention.self.{name}" for name in ("query", "key", "value")]
        for family in ("text-bert", "text-roberta")
    },
    "text-language_model": [f"model.model.layers.1.self_attn.{name}_proj" for name in "qkv"],
}
"""Where the last attention of a family has its query, key and value."""
OBJECTIVES: dict[type, Callable[[Encoder, Encoder, list[str]], PretrainingObjective]] = {
    CausalLanguage: lambda encoder, text, heard: CausalLanguage(encoder),
    Classification: lambda encoder, text, heard: Classification(encoder, ["yes", "no", "perhaps"]),
    ContrastiveAudio: lambda encoder, text, heard: ContrastiveAudio(
        encoder, num_distractors=4, num_codes=4, dim=16
    ),
    FeatureDistillation: lambda encoder, text, heard: FeatureDistillation(encoder, copy.deepcopy(encoder)),
    LogitDistillation: lambda encoder, text, heard: LogitDistillation(encoder, copy.deepcopy(encoder)),
    MaskedAudio: lambda encoder, text, heard: MaskedAudio(encoder),
    MaskedAutoencoder: lambda encoder, text, heard: MaskedAutoencoder(
        encoder, decoder_dim=16, decoder_layers=1, decoder_heads=2
    ),
    MaskedImage: lambda encoder, text, heard: MaskedImage(encoder),
    MaskedLanguage: lambda encoder, text, heard: MaskedLanguage(encoder, share=0.5),
    MaskedRegion: lambda encoder, text, heard: MaskedRegion(encoder, text, dim=16, num_layers=1, num_heads=2),
    Reconstruction: lambda encoder, text, heard: Reconstruction(encoder),
    RelationDistillation: lambda encoder, text, heard: RelationDistillation(
        encoder, copy.deepcopy(encoder), heard, heard, num_heads=2
    ),
}
ONE_TOKEN = {"image-mobilevit", "image-open_clip-pooled", "image-timm-resnet10t"}  # of 32 pixels
PATCHES = {name for name in FAMILIES if name.startswith("image-")} - ONE_TOKEN - {"image-tokenizer"}
TAKES: dict[type, set[str]] = {
    CausalLanguage: {"text-language_model"},
    Classification: set(FAMILIES),
    ContrastiveAudio: {"audio-log_mel", "audio-mfcc"},
    FeatureDistillation: set(FAMILIES),
    LogitDistillation: {"text-language_model"},
    MaskedAudio: {"audio-log_mel", "audio-mfcc"},
    MaskedAutoencoder: {"image-mae"},
    MaskedImage: PATCHES,
    MaskedLanguage: {"text-bert", "text-roberta", "text-gpt2", "text-llama", "text-language_model"},
    MaskedRegion: PATCHES,
    Reconstruction: {"image-tokenizer"},
    RelationDistillation: set(HEARD),
}
"""The families that each objective takes; it refuses the others when it is built."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def encoder(family, tokenizer_path, tmp_path_factory) -> Encoder:
    torch.manual_seed(0)
    return builders(tokenizer_path)[family](tmp_path_factory.mktemp("models") / family)


@pytest.fixture(scope="module")
def text(tokenizer_path, tmp_path_factory) -> Encoder:
    return builders(tokenizer_path)["text-bert"](tmp_path_factory.mktemp("models") / "text")


@pytest.mark.parametrize("kind", OBJECTIVES, ids=lambda kind: kind.__name__)
def test_an_objective_trains_an_encoder_or_refuses_it_when_it_is_built(kind, family, encoder, text):
    encoder = copy.deepcopy(encoder).eval()  # batch norms of three pictures overflow
    if family not in TAKES[kind]:
        with pytest.raises(ValueError, match=rf"{type(encoder).__name__}|no \[MASK\]"):
            OBJECTIVES[kind](encoder, text, HEARD["text-bert"])
        return
    objective = OBJECTIVES[kind](encoder, text, HEARD.get(family, [])).train()
    inputs = inputs_of(family.partition("-")[0])
    for name in objective.input_configs:
        inputs |= inputs_of("text") if name == "text" else {"label": torch.arange(3)}
    for rows in (3, 0):  # a rank may have none
        encoder.zero_grad()
        seen, target = objective.corrupt({name: tensor[:rows] for name, tensor in inputs.items()})
        losses, _ = objective(encoder(seen), target)
        sum(losses.values()).backward()
        gradients = [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]
        assert gradients and all(gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients) == bool(rows) or kind is FeatureDistillation


def test_no_pretraining_objective_is_left_out():
    assert classes(modules.objectives, PretrainingObjective) == set(OBJECTIVES) == set(TAKES)

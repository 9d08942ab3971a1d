"""A pipeline's layers compute what they do undivided, in any number of pieces; what cannot be divided is refused."""

import copy
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from datamodules.preparation.tokenizer import train_tokenizer
from modules import adapters
from modules.assistant import Assistant
from modules.language_model import LanguageModel
from modules.media_attention import MediaAttention
from modules.pipeline import LayerPipeline, dividable_layers
from modules.projections import Projector

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
FAMILIES = [
    {"model_type": "llama"},
    {"model_type": "mistral", "sliding_window": 4, "head_dim": 8},
    {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    {"model_type": "qwen3", "head_dim": 8},
    {"model_type": "gemma2", "sliding_window": 4, "head_dim": 8},
    {"model_type": "gemma3_text", "sliding_window": 4, "head_dim": 8},
    {"model_type": "phi3"},
    {"model_type": "olmo2"},
]
"""Some of whose layers have masks or positions of their own."""


@pytest.fixture
def mesh(tmp_path):
    """The mesh of one rank."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1, 1), mesh_dim_names=("data_parallel", "pipeline"))
    dist.destroy_process_group()


def divided(model, mesh, microbatches):
    layers = dividable_layers(model, ranks=1)
    return LayerPipeline(layers, mesh, microbatches=microbatches, device=torch.device("cpu"))


def build(config, tokenizer_path):
    torch.manual_seed(0)
    return LanguageModel(config={**SMALL, **config}, tokenizer=tokenizer_path, max_tokens=32).float()


def gradients(model, rows=5, tokens=9):
    """Return features and the gradient of every parameter, and of the embeddings, for rows of several lengths."""
    torch.manual_seed(1)
    embeds = torch.randn(rows, tokens, model.dim, requires_grad=True)
    mask = torch.arange(tokens) < torch.arange(tokens, tokens - rows, -1).unsqueeze(1)
    features = model({"inputs_embeds": embeds, "attention_mask": mask}).features
    (features * torch.randn(features.shape)).sum().backward()
    named = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {"features": features.detach(), "embeds": embeds.grad, **named}


@pytest.mark.parametrize("config", FAMILIES, ids=[config["model_type"] for config in FAMILIES])
@pytest.mark.parametrize("microbatches", [1, 2, 4])  # of five rows: the last piece is filled up
def test_pieces_give_features_and_gradients_of_the_whole(config, microbatches, tokenizer_path, mesh):
    expected = gradients(build(config, tokenizer_path))
    model = build(config, tokenizer_path)
    divided(model, mesh, microbatches)
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5, msg=name)


def spread(rank):
    """Return what a rank of two has of three layers, and what it is given when it asks for all."""
    with tempfile.TemporaryDirectory() as folder:
        words = train_tokenizer(["a red seven left of a blue two"], vocab_size=300)
        tokenizer = Path(folder, "tokenizer.json")
        tokenizer.write_text(words, encoding="utf-8")
        model = build(FAMILIES[0], str(tokenizer))
    whole = {name: value.clone() for name, value in model.state_dict().items()}
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("data_parallel", "pipeline"))
    LayerPipeline(dividable_layers(model, 2), mesh, microbatches=2, device=torch.device("cpu"))
    has = [not any(value.is_meta for value in layer.parameters()) for layer in model.layers]
    shapes = {name: list(value.shape) for name, value in model.state_dict(keep_vars=True).items()}
    asked = model.state_dict()
    is_whole = all(not asked[name].is_meta and torch.equal(asked[name], whole[name]) for name in whole)
    return {
        "has": has,
        "same_shapes": shapes == {n: list(v.shape) for n, v in whole.items()},
        "whole": is_whole,
    }


@pytest.mark.slow
def test_each_rank_has_its_own_layers_and_the_first_is_given_all_that_it_asks_for(on_two_ranks):
    first, second = on_two_ranks(spread)
    assert first == {"has": [True, False, False], "same_shapes": True, "whole": True}
    assert second == {"has": [False, True, True], "same_shapes": True, "whole": False}


def test_layers_train_behind_frozen_embeddings(tokenizer_path, mesh):
    model = build(FAMILIES[0], tokenizer_path)
    divided(model, mesh, 2)
    mask = torch.ones(2, 4, dtype=torch.bool)
    model({"inputs_embeds": torch.randn(2, 4, 16), "attention_mask": mask}).features.sum().backward()
    assert all(
        value.grad.abs().sum() > 0 for name, value in model.layers.named_parameters() if "weight" in name
    )


def test_without_gradients_the_layers_compute_the_same(tokenizer_path, mesh):
    inputs = {"inputs_embeds": torch.randn(3, 4, 16), "attention_mask": torch.ones(3, 4, dtype=torch.bool)}
    expected = build(FAMILIES[0], tokenizer_path)(inputs).features
    model = build(FAMILIES[0], tokenizer_path)
    divided(model, mesh, 2)
    with torch.no_grad():
        torch.testing.assert_close(model(inputs).features, expected)


def test_dropout_draws_in_the_backward_what_it_drew_in_the_forward(tokenizer_path, mesh):
    model = build({**FAMILIES[0], "attention_dropout": 0.5}, tokenizer_path).train()
    pipeline = divided(model, mesh, 2)
    made = []
    last = pipeline.compute[2]
    pipeline.compute[2] = lambda *args, **kwargs: made.append(last(*args, **kwargs)) or made[-1]
    gradients(model)
    first, second, third, fourth = made  # two pieces forward, and again
    assert torch.equal(first, third)
    assert torch.equal(second, fourth)
    gradients(model.eval())
    assert not torch.equal(first, made[4])


def test_layers_draw_none_of_the_numbers_that_others_draw(tokenizer_path, mesh):
    model = build({**FAMILIES[0], "attention_dropout": 0.5}, tokenizer_path).train()
    divided(model, mesh, 2)
    gradients(model)
    torch.manual_seed(1)
    torch.randn(5, 9, 16), torch.randn(5, 9, 16)  # as `gradients` does
    expected = torch.get_rng_state()
    gradients(model)
    assert torch.equal(torch.get_rng_state(), expected)


def test_layers_compute_in_the_precision_of_autocast(tokenizer_path, mesh):
    model = build(FAMILIES[0], tokenizer_path)
    with torch.autocast("cpu", torch.bfloat16):
        expected = gradients(model)
    model = build(FAMILIES[0], tokenizer_path)
    divided(model, mesh, 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(model)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_names_and_weights_stay(tokenizer_path, mesh):
    expected = build(FAMILIES[0], tokenizer_path).state_dict()
    model = build(FAMILIES[0], tokenizer_path)
    divided(model, mesh, 2)
    found = model.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_divided_model_does_not_generate(tokenizer_path, mesh):
    model = build(FAMILIES[0], tokenizer_path)
    divided(model, mesh, 2)
    with pytest.raises(ValueError, match="a pipeline does not generate"):
        model.generate(torch.randn(1, 4, 16), torch.ones(1, 4, dtype=torch.bool), max_new_tokens=2)


def test_what_a_layer_is_given_may_have_no_gradient_of_its_own(tokenizer_path, mesh):
    model = build(FAMILIES[0], tokenizer_path)
    divided(model, mesh, 2)
    hidden = torch.randn(1, 4, 16)
    with pytest.raises(ValueError, match="more than one tensor that has a gradient"):
        model.layers[0](hidden, position_embeddings=(hidden.clone().requires_grad_(), hidden))


def test_a_model_of_several_or_no_language_models_is_refused(image_encoder, language_model):
    with pytest.raises(ValueError, match=r"ImageEncoder has 0: take configs/trainer/ddp.yaml"):
        dividable_layers(image_encoder, ranks=2)
    with pytest.raises(ValueError, match="ModuleList has 2"):
        dividable_layers(nn.ModuleList([language_model, copy.deepcopy(language_model)]), ranks=2)


def test_a_language_model_with_an_adapter_is_refused(language_model):
    adapters.adapt(language_model, {"peft_type": "LORA", "target_modules": ["q_proj"]})
    with pytest.raises(ValueError, match=r"with an adapter: take .* or merge it first"):
        dividable_layers(language_model, ranks=2)


def test_a_language_model_that_looks_at_media_is_refused(language_model, image_encoder):
    looking = Assistant(
        language_model, {"image": image_encoder}, {"image": MediaAttention(16, 16, [1], num_heads=2)}
    )
    with pytest.raises(ValueError, match=r"MediaAttention\): take a Projector"):
        dividable_layers(looking, ranks=2)


def test_more_ranks_than_layers_are_refused(language_model, image_encoder):
    assistant = Assistant(language_model, {"image": image_encoder}, {"image": Projector(16, 16)})
    assert len(dividable_layers(assistant, ranks=2)) == 2
    with pytest.raises(ValueError, match="2 layers, fewer than the 3 ranks"):
        dividable_layers(assistant, ranks=3)


def test_a_model_without_a_plan_is_refused(tokenizer_path):
    model = build({"model_type": "gpt2", "n_embd": 16, "n_head": 2, "n_layer": 2}, tokenizer_path)
    with pytest.raises(ValueError, match="no pipeline plan for GPT2LMHeadModel"):
        dividable_layers(model, ranks=2)

"""Encoders of every family keep what every encoder promises."""

import importlib

import numpy as np
import pytest
import torch
from families import builders, inputs_of
from walk import classes

import modules.encoders
from modules import parts
from modules.encoders.cached import CachedEncoder
from modules.encoders.encoder import Encoder
from modules.language_model import LanguageModel

NAMES = sorted(builders("no tokenizer is read before one is built"))
STANDS_IN = {CachedEncoder}  # for another, whose features were stored: test_cached.py


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def encoder(name, tokenizer_path, tmp_path_factory):
    torch.manual_seed(0)
    return builders(tokenizer_path)[name](tmp_path_factory.mktemp("models") / name).eval()


@pytest.fixture
def inputs(name):
    return inputs_of(name.split("-")[0])


def test_no_encoder_is_left_out(tokenizer_path, tmp_path):
    built = {type(build(tmp_path / name)) for name, build in builders(tokenizer_path).items()}
    assert built == classes(modules.encoders, Encoder) - STANDS_IN | {LanguageModel}


def test_tokens_are_as_wide_as_the_encoder_says_and_their_data_comes_from_a_modality(encoder, inputs):
    tokens = encoder(inputs)
    assert tokens.features.shape[::2] == (3, encoder.dim)
    assert tokens.mask.any(1).all()
    assert (
        tokens.features[tokens.mask].std(0).mean() > 1e-3 and tokens.features[0].std() > 1e-3
    )  # not all the same
    assert encoder.input_config["class_path"].startswith("datamodules.modalities.")


def test_the_modality_it_names_makes_inputs_that_it_takes(name, encoder):
    config = encoder.input_config
    module, _, kind = config["class_path"].rpartition(".")
    modality = vars(importlib.import_module(module))[kind](**config["init_args"])
    arguments = config["init_args"]
    picture = np.full((arguments.get("height", 1), arguments.get("width", 1), 3), 99, dtype=np.uint8)
    values = {
        "text": ["a red seven", "a"],
        "image": [picture, picture],
        "audio": [np.zeros(3000, dtype=np.float32), np.ones(100, dtype=np.float32)],
        "video": [picture[None].repeat(2, 0), picture[None].repeat(4, 0)],
    }
    assert encoder(modality.collate(values[name.split("-")[0]])).features.isfinite().all()
    assert len(encoder(modality.collate([]))) == 0


def test_zero_rows_give_zero_rows_and_gradients_for_the_same_parameters(encoder, inputs):
    encoder.train()
    before = {key: value.clone() for key, value in encoder.state_dict().items() if "running" in key}
    tokens = encoder({key: tensor[:0] for key, tensor in inputs.items()})
    assert len(tokens) == 0
    assert all(torch.equal(encoder.state_dict()[key], value) for key, value in before.items())
    encoder.zero_grad()
    tokens.features.sum().backward()
    used = {
        key: parameter.grad for key, parameter in encoder.named_parameters() if parameter.grad is not None
    }
    assert used and not any(gradient.any() for gradient in used.values())
    encoder.eval().zero_grad()
    encoder(inputs).features.sum().backward()
    assert set(used) == {key for key, value in encoder.named_parameters() if value.grad is not None}
    encoder.zero_grad()


def test_every_parameter_that_is_to_be_trained_takes_part(name, encoder, inputs):
    encoder(inputs).features.square().sum().backward()
    beside = {id(parameter) for parameter in encoder.beside_tokens()}
    taught = {key: value for key, value in encoder.named_parameters() if value.requires_grad}
    assert {key for key, value in taught.items() if value.grad is None} == {
        key for key, value in taught.items() if id(value) in beside
    }
    encoder.zero_grad()


def test_what_is_padded_changes_nothing(name, encoder, inputs):
    together = encoder(inputs)
    for row in range(3):
        alone = encoder(_cut(name, {key: tensor[row : row + 1] for key, tensor in inputs.items()}))
        expected = alone.features[0][alone.mask[0]]
        found = together.features[row][together.mask[row]]
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_padding_stands_behind_what_is_real(encoder, inputs):
    mask = encoder(inputs).mask
    assert torch.equal(mask, mask.sort(1, descending=True).values)


def test_half_precision_comes_near_and_a_clip_of_no_frame_gives_no_nan(name, encoder, inputs):
    if "mask" in inputs:
        inputs["mask"][2] = False
    tokens = encoder(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = encoder(inputs)
    assert rounded.features.isfinite().all()
    if name != "audio-units":  # a frame between two centroids may go to either
        found, expected = rounded.features[tokens.mask].float(), tokens.features[tokens.mask]
        assert torch.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.98


def test_a_part_comes_back_equal(encoder, inputs, tmp_path):
    again = parts.load(str(parts.save(encoder, tmp_path / "part"))).eval()
    assert again.input_config == encoder.input_config
    tokens, expected = again(inputs), encoder(inputs)
    torch.testing.assert_close(tokens.features, expected.features, atol=0, rtol=0)
    assert torch.equal(tokens.mask, expected.mask)
    twice = parts.save(again, tmp_path / "again")
    assert parts.fingerprint(parts.read_card(twice)) == parts.fingerprint(parts.read_card(tmp_path / "part"))


def _cut(name, inputs):
    """Take the padding off; of a clip, whose length is fixed, turn it into its negative."""
    if name.startswith("audio"):
        return {**inputs, "waveform": inputs["waveform"][:, : int(inputs["lengths"])]}
    if name.startswith("text"):
        real = int(inputs["attention_mask"].sum())
        return {key: tensor[:, :real] for key, tensor in inputs.items()}
    if name.startswith("video"):
        negative = 255 - inputs["pixels"]
        return {
            **inputs,
            "pixels": torch.where(inputs["mask"][:, :, None, None, None], inputs["pixels"], negative),
        }
    return inputs

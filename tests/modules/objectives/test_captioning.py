"""Captioning: its loss is the library's, and padding, absent modalities and other samples leave it unmoved."""

import dataclasses

import pytest
import torch

from modules.objectives.aligned import Aligned
from modules.objectives.captioning import Captioning
from modules.objectives.weighted import Weighted
from modules.tokens import Tokens

GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
BERT = {
    "model_type": "bert",
    "is_decoder": True,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def batch(image_rows, text_rows, size=4, width=8, extra=0):
    """A batch whose values depend on the sample alone; `extra` adds tokens of padding."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(size, 3, width, generator=generator)
    features = torch.cat([features, torch.randn(size, extra, width, generator=generator)], 1)
    seen = torch.arange(3 + extra) < torch.tensor([3, 1, 2, 3]).unsqueeze(1)
    ids = torch.randint(6, 200, (size, 5), generator=torch.Generator().manual_seed(1))
    ids = torch.nn.functional.pad(ids, (0, extra), value=7)
    mask = torch.arange(5 + extra) < torch.tensor([5, 2, 1, 4]).unsqueeze(1)
    rows = {"image": torch.tensor(image_rows).long(), "text": torch.tensor(text_rows).long()}
    tokens = {"image": Tokens(features[rows["image"]].requires_grad_(), seen[rows["image"]])}
    tokens["text"] = Tokens(torch.zeros(len(text_rows), 5 + extra, width), mask[rows["text"]])
    text = {"input_ids": ids[rows["text"]], "attention_mask": mask[rows["text"]]}
    vectors = {name: torch.zeros(len(each), 2) for name, each in rows.items()}
    return Aligned(vectors, rows, size, tokens, {"text": text})


@pytest.fixture
def captioning(tokenizer_path):
    return Captioning({"image": 8}, GPT2, tokenizer_path).eval()


@pytest.mark.parametrize("config", [GPT2, BERT], ids=["gpt2", "bert"])
def test_the_loss_is_that_of_transformers_on_the_same_labels(config, tokenizer_path):
    objective = Captioning({"image": 8}, config, tokenizer_path).eval()
    aligned = batch([0, 1, 2, 3], [0, 1, 2, 3])
    text, seen = aligned.inputs["text"], aligned.tokens["image"]
    expected = objective.decoder(
        **{**text, "attention_mask": text["attention_mask"].long()},
        encoder_hidden_states=objective.maps["image"](seen.features),
        encoder_attention_mask=seen.mask.long(),
        labels=text["input_ids"].masked_fill(~text["attention_mask"], -100),
    ).loss
    torch.testing.assert_close(objective(aligned)["captioning_image"], expected)


def test_padding_changes_nothing(captioning):
    short, long = (captioning(batch([0, 1, 3], [0, 1, 3], extra=extra)) for extra in (0, 4))
    torch.testing.assert_close(short, long)


def test_samples_that_lack_either_modality_are_left_out(captioning):
    both = captioning(batch([1, 3], [1, 3]))
    torch.testing.assert_close(captioning(batch([0, 1, 3], [1, 2, 3])), both)


def test_gradients_reach_the_tokens_that_are_real_and_no_others(captioning):
    aligned = batch([0, 1], [0, 1])
    captioning(aligned)["captioning_image"].backward()
    moved = aligned.tokens["image"].features.grad.abs().sum(2) > 0
    assert torch.equal(moved, aligned.tokens["image"].mask)


@pytest.mark.parametrize("rows", [([], []), ([0], []), ([], [2]), ([0], [1])])
def test_no_pair_gives_zero_with_gradients_for_every_parameter(rows, captioning):
    loss = captioning(batch(*rows))["captioning_image"]
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in captioning.parameters())


def test_a_text_of_no_token_is_not_in_the_way(captioning):
    aligned = batch([0], [0])
    none = {name: tensor[:, :0] for name, tensor in aligned.inputs["text"].items()}
    assert captioning(dataclasses.replace(aligned, inputs={"text": none}))["captioning_image"] == 0


def test_no_more_than_max_tokens_are_told(tokenizer_path):
    torch.manual_seed(0)
    long = Captioning({"image": 8}, GPT2, tokenizer_path).eval()
    torch.manual_seed(0)
    short = Captioning({"image": 8}, {**GPT2, "n_positions": 64}, tokenizer_path, max_tokens=3).eval()
    aligned = batch([0, 1, 3], [0, 1, 3])
    cut = {name: tensor[:, :3] for name, tensor in aligned.inputs["text"].items()}
    expected = long(dataclasses.replace(aligned, inputs={"text": cut}))
    torch.testing.assert_close(short(aligned), expected)
    assert short(aligned)["captioning_image"] != long(aligned)["captioning_image"]


def test_what_does_not_fit_is_refused(captioning, tokenizer_path, text_encoder, image_encoder):
    aligned = batch([0], [0])
    with pytest.raises(ValueError, match=r"the ids of 'text', the model has inputs of nothing"):
        captioning(dataclasses.replace(aligned, inputs={}))
    with pytest.raises(ValueError, match=r"captioning of image, 9 wide: .*'image': 8"):
        Captioning({"image": 9}, GPT2, tokenizer_path).configure({"image": 8, "text": 4}, dim=4)
    with pytest.raises(ValueError, match=r"writes 'text', the model has image, audio"):
        captioning.configure({"image": 8, "audio": 8}, dim=4)
    with pytest.raises(ValueError, match=r"the tokenizer has \d+ tokens, the embedding of GPT2LMHeadModel 5"):
        Captioning({"image": 8}, {**GPT2, "vocab_size": 5}, tokenizer_path)
    with pytest.raises(
        ValueError, match="max_tokens is 64, GPT2LMHeadModel has 4 positions: lower max_tokens"
    ):
        Captioning({"image": 8}, {**GPT2, "n_positions": 4}, tokenizer_path)
    captioning.check_inputs({"text": text_encoder.input_config})
    captioning.vocab_size = 5
    with pytest.raises(
        ValueError, match=r"tokenizer has \d+ tokens, the decoder 5 ids: give captioning the token"
    ):
        captioning.check_inputs({"text": text_encoder.input_config})
    with pytest.raises(
        ValueError, match=r"the ids of 'text', whose encoder takes .*Image, expected .*Text: take"
    ):
        Weighted({"caption": captioning}).check_inputs({"text": image_encoder.input_config})
    with pytest.raises(ValueError, match="no cross-attention"):
        Captioning({"image": 8}, LLAMA, tokenizer_path)
    with pytest.raises(ValueError, match="and not text"):
        Captioning({"text": 8}, GPT2, tokenizer_path)

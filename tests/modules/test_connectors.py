"""Every way of showing media to a language model: what an answer depends on, with a cache and without; refusals."""

import json

import pytest
import torch

from datamodules.modalities.conversation import Conversation
from modules import parts
from modules.assistant import Assistant, _pad_left
from modules.connector import as_connector
from modules.language_model import LanguageModel
from modules.media_attention import MediaAttention
from modules.projections import Projection, Projector
from modules.resampler import PerceiverResampler

GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 256}


def opened(before):
    """Return media attention whose gates are open, as training leaves them."""
    attention = MediaAttention(16, 16, before, num_latents=3, num_layers=1, num_heads=2)
    for layer in attention.layers.values():
        torch.nn.init.constant_(layer.attention_gate, 1.0)
        torch.nn.init.constant_(layer.perceptron_gate, -0.7)
    return attention


CONNECTORS = {
    "projector": lambda: Projector(16, 16, group=2),
    "resampler": lambda: PerceiverResampler(16, 16, num_latents=3, num_layers=1, num_heads=2),
    "attention": lambda: opened([0, 1]),
    "one layer of attention": lambda: opened([1]),
}
COMBINATIONS = [
    ("projector", "resampler"),
    ("resampler", "attention"),
    ("attention", "projector"),
    ("attention", "one layer of attention"),
]


@pytest.fixture(params=["llama", "gpt2"])
def speaker(request, language_model, tokenizer_path):
    if request.param == "llama":
        return language_model
    return LanguageModel(config=GPT2, tokenizer=tokenizer_path, max_tokens=64).eval()


@pytest.fixture(params=COMBINATIONS, ids=" and ".join)
def assistant(request, speaker, image_encoder, audio_encoder):
    encoders = {"image": image_encoder, "audio": audio_encoder}
    torch.manual_seed(0)
    connectors = {
        name: CONNECTORS[kind]() for name, kind in zip(("image", "audio"), request.param, strict=True)
    }
    with torch.no_grad():
        for parameter in connectors["image"].parameters():
            parameter.mul_(3)  # so that what is shown decides what is said
    return Assistant(speaker, encoders, connectors).eval()


def record(question, answer="yes"):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return json.dumps({"conversations": turns}).encode()


QUESTIONS = [
    "<image>\n<audio>\na red seven?",
    "a red <image> left <image> of a blue two?",
    "<audio>\na blue two left of a green five?",
    "a red seven?",
]


@pytest.fixture
def batch(assistant, image_inputs, audio_inputs):
    """Four samples: both media, two pictures, sound alone, and text alone."""
    conversation = Conversation(**assistant.input_configs["conversation"]["init_args"])
    values = [conversation.decode(record(question), "json") for question in QUESTIONS]
    inputs = {
        "conversation": conversation.collate(values),
        "image": image_inputs,
        "audio": {name: tensor[:2] for name, tensor in audio_inputs.items()},
    }
    rows = {
        "conversation": torch.arange(4),
        "image": torch.tensor([0, 1, 1]),
        "audio": torch.tensor([0, 2]),
    }
    return inputs, rows


def only(sample, inputs, rows):
    own = {
        name: {key: tensor[rows[name] == sample] for key, tensor in values.items()}
        for name, values in inputs.items()
    }
    return own, {name: torch.zeros(int((at == sample).sum()), dtype=torch.long) for name, at in rows.items()}


def test_an_answer_does_not_depend_on_the_rest_of_the_batch(assistant, batch):
    inputs, rows = batch
    together = assistant.generate(inputs, rows, max_new_tokens=6)
    for sample in range(4):
        assert assistant.generate(*only(sample, inputs, rows), 6) == together[sample : sample + 1]
    logits, said = assistant(inputs, rows)
    alone = [assistant(*only(sample, inputs, rows)) for sample in range(4)]
    torch.testing.assert_close(logits, torch.cat([each[0] for each in alone]), rtol=1e-4, atol=1e-5)
    assert said.tolist() == torch.cat([each[1] for each in alone]).tolist()


@torch.no_grad()
def test_the_cache_changes_nothing_of_what_is_generated(assistant, batch):
    prompt = _pad_left(assistant.prompt(assistant._asked(batch[0]), batch[1]))
    model = assistant.language_model
    with assistant.shown(prompt.views):
        ids = model.generate(prompt.embeds, prompt.mask, max_new_tokens=6)
        embeds, mask, expected = prompt.embeds, prompt.mask, []
        for _ in range(ids.shape[1]):
            positions = (mask.long().cumsum(1) - 1).clamp(min=0)
            outcome = model.model(
                inputs_embeds=embeds, attention_mask=mask.long(), position_ids=positions, use_cache=False
            )
            expected.append(outcome.logits[:, -1].argmax(1))
            embeds = torch.cat([embeds, model.embed(expected[-1][:, None])], 1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    end = model.model.generation_config.eos_token_id
    for row, (found, wanted) in enumerate(zip(ids, torch.stack(expected, 1), strict=True)):
        length = found.tolist().index(end) + 1 if end in found else len(found)
        assert found[:length].tolist() == wanted[:length].tolist(), row


def test_each_medium_changes_the_answer_of_its_sample_and_no_other(assistant, batch):
    inputs, rows = batch
    before, said = assistant(inputs, rows)
    owner = torch.arange(4).repeat_interleave(len(said) // 4)
    pixels = inputs["image"]["pixels"].clone()
    pixels[0] = 255 - pixels[0]
    after, _ = assistant({**inputs, "image": {"pixels": pixels}}, rows)
    moved = (after - before).abs().amax(1)
    assert (moved[owner == 0] > 1e-4).all()
    torch.testing.assert_close(after[owner != 0], before[owner != 0])


def test_a_mark_whose_medium_is_absent_is_as_if_it_were_not_there(assistant, batch):
    conversation = Conversation(**assistant.input_configs["conversation"]["init_args"])
    (inputs, _), none = batch, torch.zeros(0, dtype=torch.long)
    media = {name: {key: tensor[:0] for key, tensor in inputs[name].items()} for name in ("image", "audio")}
    rows = {"conversation": torch.tensor([0]), "image": none, "audio": none}
    outcomes = []
    for question in ("<image><audio>yes no?", "yes no?"):
        values = conversation.collate([conversation.decode(record(question), "json")])
        outcomes.append(assistant({"conversation": values, **media}, rows)[0])
    torch.testing.assert_close(*outcomes)


def test_a_batch_without_media_gives_every_parameter_a_gradient(assistant, batch):
    logits, said = assistant(*only(3, *batch))
    torch.nn.functional.cross_entropy(logits, said).backward()
    for name in ("image", "audio"):
        assert all(parameter.grad is not None for parameter in assistant.projectors[name].parameters())


def test_gradients_reach_encoders_and_connectors(assistant, batch):
    logits, said = assistant(*batch)
    torch.nn.functional.cross_entropy(logits, said).backward()
    for name in ("image", "audio"):
        for module in (assistant.projectors[name], assistant.encoders[name]):
            total = sum(p.grad.abs().sum() for p in module.parameters() if p.grad is not None)
            assert total.isfinite() and total > 0


def test_an_assistant_rebuilds_itself_from_its_parts(assistant, batch, tmp_path):
    parts.save(assistant.language_model, tmp_path / "language_model")
    for name in assistant.media:
        parts.save(assistant.encoders[name], tmp_path / f"encoders.{name}")
        parts.save(assistant.projectors[name], tmp_path / f"projectors.{name}")
    again = Assistant.load(tmp_path)
    torch.testing.assert_close(again(*batch)[0], assistant(*batch)[0])
    assert again.generate(*batch, 5) == assistant.generate(*batch, 5)


def test_outside_of_the_assistant_the_language_model_is_what_it_was(assistant, batch):
    ids = {
        "input_ids": torch.tensor([[5, 6, 7]]),
        "attention_mask": torch.ones(1, 3, dtype=torch.bool),
    }
    before = assistant.language_model(ids).features
    assistant(*batch)
    assistant.generate(*batch, 2)
    assert torch.equal(assistant.language_model(ids).features, before)


# ---- what is refused


def test_closed_gates_say_what_the_language_model_says_without_media(
    language_model, image_encoder, image_inputs
):
    closed = MediaAttention(16, 16, [0, 1], num_latents=3, num_heads=2)
    assistant = Assistant(language_model, {"image": image_encoder}, {"image": closed}).eval()
    conversation = Conversation(**assistant.input_configs["conversation"]["init_args"])
    rows = {"conversation": torch.tensor([0]), "image": torch.tensor([0])}
    texts = [
        conversation.collate([conversation.decode(record(question), "json")])
        for question in ("<image>yes?", "yes?")
    ]
    with_picture = {"conversation": texts[0], "image": {"pixels": image_inputs["pixels"][:1]}}
    without = {"conversation": texts[1], "image": {"pixels": image_inputs["pixels"][:0]}}
    none = {**rows, "image": torch.zeros(0, dtype=torch.long)}
    torch.testing.assert_close(assistant(with_picture, rows)[0], assistant(without, none)[0])


def test_a_layer_that_the_language_model_lacks_is_refused(language_model, image_encoder):
    attention = MediaAttention(16, 16, [0, 2], num_heads=2)
    with pytest.raises(ValueError, match="stands before layer 2, the language model has layers 0 to 1"):
        Assistant(language_model, {"image": image_encoder}, {"image": attention})
    with pytest.raises(ValueError, match=r"before is \[\]: expected one or more"):
        MediaAttention(16, 16, [])
    with pytest.raises(ValueError, match=r"before is \[1, 1\]: expected one or more layers"):
        MediaAttention(16, 16, [1, 1])


def test_a_connector_of_another_kind_or_width_is_refused():
    with pytest.raises(ValueError, match="image was given a Projection, expected a connector"):
        as_connector(Projection(16, 16), "image", in_dim=16, out_dim=16)
    with pytest.raises(ValueError, match="the image projector goes from 16 to 8, expected from 16"):
        as_connector(PerceiverResampler(16, 8), "image", in_dim=16, out_dim=16)
    built = as_connector(lambda a, b: PerceiverResampler(a, b, num_heads=2), "image", in_dim=12, out_dim=8)
    assert (built.in_dim, built.out_dim) == (12, 8)

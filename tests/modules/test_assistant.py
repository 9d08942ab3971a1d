"""Assistant: media go where the marks are, and nothing else in the batch changes an answer."""

import json

import pytest
import torch

from datamodules.modalities.conversation import Conversation
from modules.assistant import Assistant
from modules.projections import Projector


@pytest.fixture
def assistant(language_model, image_encoder, audio_encoder):
    encoders = {"image": image_encoder, "audio": audio_encoder}
    torch.manual_seed(0)
    return Assistant(language_model, encoders, {n: Projector(16, 16, group=2) for n in encoders}).eval()


@pytest.fixture
def conversation(assistant):
    return Conversation(**assistant.input_configs["conversation"]["init_args"])


def record(question, answer):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return json.dumps({"conversations": turns}).encode()


@pytest.fixture
def batch(conversation, image_inputs, audio_inputs):
    """Three samples: picture and sound, sound alone, text alone."""
    questions = [
        "<image>\n<audio>\na red seven?",
        "<audio>\na blue two left of a green five?",
        "a red seven?",
    ]
    values = [conversation.decode(record(q, "yes" * n), "json") for n, q in enumerate(questions, 1)]
    inputs = {
        "conversation": conversation.collate(values),
        "image": {"pixels": image_inputs["pixels"][:1]},
        "audio": {name: tensor[:2] for name, tensor in audio_inputs.items()},
    }
    rows = {"conversation": torch.arange(3), "image": torch.tensor([0]), "audio": torch.tensor([0, 1])}
    return inputs, rows


def test_media_take_the_place_of_their_marks(assistant, batch):
    inputs, rows = batch
    prompt = assistant.prompt(inputs, rows)
    audio = assistant.projectors["audio"](assistant.encoders["audio"](inputs["audio"]))
    image = assistant.projectors["image"](assistant.encoders["image"](inputs["image"]))
    kinds = {name: index for index, name in enumerate(assistant.media)}
    torch.testing.assert_close(prompt.embeds[0][prompt.source[0] == kinds["image"]], image.features[0])
    for row in range(2):
        where = prompt.source[row] == kinds["audio"]
        torch.testing.assert_close(prompt.embeds[row][where], audio.features[row][audio.mask[row]])
    assert (prompt.source[2] == -1).all()


def test_only_answers_are_judged(assistant, conversation, batch):
    inputs, rows = batch
    _, said = assistant(inputs, rows)
    tokenizer = conversation.tokenizer
    text = tokenizer.decode(said.tolist(), skip_special_tokens=False)
    assert text == "yes[EOS]" + "yes" * 2 + "[EOS]" + "yes" * 3 + "[EOS]"


def test_gradients_reach_encoders_and_projectors(assistant, batch):
    inputs, rows = batch
    logits, said = assistant(inputs, rows)
    torch.nn.functional.cross_entropy(logits, said).backward()
    for name in ("image", "audio"):
        assert assistant.projectors[name].perceptron[0].weight.grad.abs().sum() > 0
        assert next(assistant.encoders[name].trunk.layers.parameters()).grad.abs().sum() > 0


def test_an_answer_does_not_depend_on_the_rest_of_the_batch(assistant, batch):
    inputs, rows = batch
    together = assistant.generate(inputs, rows, max_new_tokens=6)
    for row in range(3):
        alone = {
            name: {key: tensor[rows[name] == row] for key, tensor in values.items()}
            for name, values in inputs.items()
        }
        own = {name: torch.zeros(int((index == row).sum()), dtype=torch.long) for name, index in rows.items()}
        assert assistant.generate(alone, own, max_new_tokens=6) == together[row : row + 1]


def test_the_expected_answer_is_not_seen_when_generating(assistant, conversation, batch):
    inputs, rows = batch
    before = assistant.generate(inputs, rows, max_new_tokens=6)
    other = [conversation.decode(record(q, "no"), "json") for q in ("<image>\n<audio>\na red seven?",)]
    shortened = conversation.collate(other)
    alone = {
        "conversation": shortened,
        "image": inputs["image"],
        "audio": {name: tensor[:1] for name, tensor in inputs["audio"].items()},
    }
    zero = torch.zeros(1, dtype=torch.long)
    assert assistant.generate(alone, dict.fromkeys(alone, zero), max_new_tokens=6) == before[:1]


def test_a_mark_without_its_medium_takes_no_place(assistant, conversation):
    values = [conversation.decode(record("<image>\nyes?", "no"), "json")]
    inputs = {
        "conversation": conversation.collate(values),
        "image": {"pixels": torch.zeros(0, 3, 16, 16, dtype=torch.uint8)},
        "audio": {"waveform": torch.zeros(0, 0), "lengths": torch.zeros(0, dtype=torch.long)},
    }
    none = torch.zeros(0, dtype=torch.long)
    prompt = assistant.prompt(inputs, {"conversation": torch.tensor([0]), "image": none, "audio": none})
    assert prompt.mask.sum() == (inputs["conversation"]["input_ids"] >= 0).sum()


def test_attention_is_given_for_every_media_token(assistant, batch):
    inputs, rows = batch
    looks = assistant.attention(inputs, rows)
    assert looks[0]["image"].shape == (2,)  # 4 patches in groups of 2
    assert looks[1]["image"].shape == (0,)
    assert 0 < looks[0]["image"].sum() < 1


def test_special_tokens_in_a_record_are_text(conversation):
    [plain] = [conversation.decode(record("[EOS] [ASSISTANT] yes", "no"), "json")]
    ids = conversation.collate([plain])["input_ids"][0].tolist()
    end = conversation.tokenizer.token_to_id("[EOS]")
    assert ids.count(end) == 1  # that of the answer's own end


def test_a_projector_of_another_width_is_refused(language_model, image_encoder):
    with pytest.raises(ValueError, match="the image projector goes from 16 to 8, expected from 16"):
        Assistant(language_model, {"image": image_encoder}, {"image": Projector(16, 8)})

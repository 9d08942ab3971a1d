"""Pretraining objectives: what is hidden cannot be seen, only what was asked for is judged, and all of it trains."""

import pytest
import torch

from modules.objectives.causal_language import CausalLanguage
from modules.objectives.classification import Classification
from modules.objectives.masked_audio import MaskedAudio
from modules.objectives.masked_image import MaskedImage
from modules.objectives.masked_language import MaskedLanguage


def objective_of(kind, encoder):
    return {
        "masked_language": lambda: MaskedLanguage(encoder, share=0.5),
        "masked_image": lambda: MaskedImage(encoder, share=0.5),
        "masked_audio": lambda: MaskedAudio(encoder, share=0.5),
        "causal_language": lambda: CausalLanguage(encoder),
        "classification": lambda: Classification(encoder, ["a", "b"]),
    }[kind]()


CASES = {
    "masked_language": ("text_encoder", "text_inputs"),
    "masked_image": ("image_encoder", "image_inputs"),
    "masked_audio": ("audio_encoder", "audio_inputs"),
    "causal_language": ("language_model", "text_inputs"),
    "classification": ("image_encoder", "image_inputs"),
}


@pytest.fixture(params=CASES)
def case(request):
    encoder, inputs = (request.getfixturevalue(name) for name in CASES[request.param])
    if request.param == "classification":
        inputs = {**inputs, "label": torch.tensor([0, 1, 1])}
    return request.param, encoder, objective_of(request.param, encoder), inputs


def judge(encoder, objective, inputs):
    seen, target = objective.corrupt(inputs)
    return objective(encoder(seen), target)


def test_the_loss_is_finite_and_falls_when_trained_on(case):
    kind, encoder, objective, inputs = case
    torch.manual_seed(0)
    parameters = [p for p in (*encoder.parameters(), *objective.parameters()) if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    history = []
    for _ in range(60):
        losses, _ = judge(encoder, objective, inputs)
        assert list(losses) == [kind]
        history.append(losses[kind].item())
        optimizer.zero_grad()
        losses[kind].backward()
        optimizer.step()
    assert sum(history[-10:]) < 0.9 * sum(history[:10])


def test_zero_rows_give_a_loss_of_zero_with_gradients(case):
    kind, encoder, objective, inputs = case
    losses, _ = judge(encoder, objective, {name: tensor[:0] for name, tensor in inputs.items()})
    assert losses[kind] == 0
    losses[kind].backward()


def test_masked_language_equals_transformers_loss_on_the_same_masks(text_encoder, text_inputs):
    from transformers import BertConfig, BertForMaskedLM

    objective = MaskedLanguage(text_encoder, share=0.5)
    _, target = objective.corrupt(text_inputs)
    config = BertConfig(
        vocab_size=objective.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        layer_norm_eps=1e-5,
    )
    model = BertForMaskedLM(config).eval()
    head = model.cls.predictions
    objective.dense, objective.norm = head.transform.dense, head.transform.LayerNorm
    objective.decoder = head.decoder
    mask = text_inputs["attention_mask"]
    theirs = model(input_ids=text_inputs["input_ids"], attention_mask=mask, labels=target)
    features = model.bert(input_ids=text_inputs["input_ids"], attention_mask=mask).last_hidden_state
    from modules.tokens import Tokens

    losses, _ = objective(Tokens(features, mask), target)
    torch.testing.assert_close(losses["masked_language"], theirs.loss, rtol=1e-5, atol=1e-6)


def test_masked_language_hides_real_tokens_alone(text_encoder, text_inputs):
    objective = MaskedLanguage(text_encoder, share=1.0)
    _, target = objective.corrupt(text_inputs)
    assert ((target != -100) <= text_inputs["attention_mask"]).all()
    special = torch.isin(target, torch.tensor(objective.special_ids))
    assert not special.any()


def test_causal_language_equals_transformers_loss(language_model, text_inputs):
    labels = text_inputs["input_ids"].masked_fill(~text_inputs["attention_mask"], -100)
    theirs = language_model.model(
        input_ids=text_inputs["input_ids"], attention_mask=text_inputs["attention_mask"].long(), labels=labels
    ).loss
    losses, _ = judge(language_model, CausalLanguage(language_model), text_inputs)
    torch.testing.assert_close(losses["causal_language"], theirs, rtol=1e-5, atol=1e-6)


def test_hidden_sound_is_not_seen_and_is_what_is_asked_for(audio_encoder, audio_inputs):
    torch.manual_seed(1)
    objective = MaskedAudio(audio_encoder, share=0.5)
    seen, (spans, hidden) = objective.corrupt(audio_inputs)
    assert hidden.any()
    frames, mask = audio_encoder.log_mel(audio_inputs["waveform"], audio_inputs["lengths"])
    assert seen["masked"].shape == mask.shape
    assert not (seen["masked"] & ~mask).any()
    row, span = hidden.nonzero()[0].tolist()
    begin = span * audio_encoder.stride
    expected = frames[row, begin : begin + audio_encoder.stride].flatten()
    torch.testing.assert_close(spans[row, span], expected)


def test_a_language_model_objective_refuses_another_encoder(image_encoder):
    with pytest.raises(ValueError, match=r"needs modules\.language_model\.LanguageModel, not ImageEncoder"):
        CausalLanguage(image_encoder)

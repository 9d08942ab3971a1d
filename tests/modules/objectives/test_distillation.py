"""Distillation: equal to the papers' formulas worked out by hand, blind to padding, and the teacher never moves."""

import json

import pytest
import torch
from torch import nn

from modules.objectives.distillation import (
    FeatureDistillation,
    LogitDistillation,
    distilled_logits,
)
from modules.objectives.relation_distillation import Projections, RelationDistillation, attention_relation

STUDENT, TEACHER = ["trunk.layers.1.attn.Wqkv"], ["trunk.layers.0.attn.Wqkv"]
TRUNK = {
    "model_type": "modernbert",
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "global_attn_every_n_layers": 1,
}


@pytest.fixture
def teacher(tokenizer_path):
    from modules.encoders.huggingface import TextEncoder

    return TextEncoder(config=TRUNK, tokenizer=tokenizer_path, max_tokens=16).train()


@pytest.fixture
def large_language_model(tokenizer_path):
    from modules.language_model import LanguageModel

    config = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    return LanguageModel(config=config, tokenizer=tokenizer_path, max_tokens=64)


def judge(objective, encoder, inputs):
    seen, target = objective.corrupt(inputs)
    return objective(encoder(seen), target)[0]


def relations(encoder, teacher, **more):
    return RelationDistillation(
        encoder,
        teacher,
        student_projections=STUDENT,
        teacher_projections=TEACHER,
        **{"num_heads": 4, **more},
    )


# ---- the formulas


def test_logits_equal_hintons_formula():
    student, teacher = torch.randn(3, 5), torch.randn(3, 5)
    p = (teacher / 2.5).softmax(1)
    by_hand = 2.5**2 * (p * (p.log() - (student / 2.5).log_softmax(1))).sum(1)
    torch.testing.assert_close(distilled_logits(student, teacher, 2.5), by_hand)


def test_in_the_limit_of_heat_logits_are_matched_by_squares():
    """Hinton et al., section 2.1: at high temperature, with logits of mean zero, half their squared distance / N."""
    student, teacher = torch.randn(2, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    student, teacher = student - student.mean(1, keepdim=True), teacher - teacher.mean(1, keepdim=True)
    hot = distilled_logits(student.float(), teacher.float(), 100.0)
    torch.testing.assert_close(
        hot.double(), (student - teacher).square().sum(1) / (2 * 6), rtol=0.05, atol=1e-3
    )


def test_a_relation_equals_the_softmax_of_products_by_hand():
    first, second = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
    mask = torch.tensor([[True, True, False]])
    found = attention_relation(first, second, mask, num_heads=2).exp()
    for head in range(2):
        part = slice(2 * head, 2 * head + 2)
        scores = first[0, :, part] @ second[0, :2, part].T / 2**0.5
        torch.testing.assert_close(found[0, head, :, :2], scores.softmax(1))
    assert (found[..., 2] == 0).all()


def test_relation_losses_equal_minilm_by_hand(text_encoder, teacher, text_inputs):
    objective = relations(text_encoder, teacher, relations=[("query", "key"), ("value", "value")])
    losses = judge(objective, text_encoder, text_inputs)
    heard = {"student": {}, "teacher": {}}
    for whose, model, module in (("student", text_encoder, STUDENT), ("teacher", teacher, TEACHER)):
        listener = Projections(model, module)
        model.eval()(text_inputs)
        heard[whose] = listener.take(3)
    lengths = text_inputs["attention_mask"].sum(1).tolist()
    for first, second in objective.relations:
        total = 0.0
        for row, length in enumerate(lengths):
            for head in range(4):
                probabilities = {}
                for whose, values in heard.items():
                    width = values[first].shape[2] // 4
                    part = slice(width * head, width * (head + 1))
                    a, b = values[first][row, :length, part], values[second][row, :length, part]
                    probabilities[whose] = (a @ b.T / width**0.5).softmax(1)
                p, q = probabilities["teacher"], probabilities["student"]
                total += (p * (p / q).log()).sum() / 4
        torch.testing.assert_close(losses[f"relation_{first}_{second}"], total / sum(lengths))


def test_features_equal_half_the_mean_square_by_hand(text_encoder, teacher, text_inputs):
    objective = FeatureDistillation(text_encoder, teacher)
    loss = judge(objective, text_encoder, text_inputs)["distilled_features"]
    real = text_inputs["attention_mask"]
    ours = objective.projection(text_encoder(text_inputs).features[real])
    theirs = teacher.eval()(text_inputs).features[real]
    torch.testing.assert_close(loss, 0.5 * nn.functional.mse_loss(ours, theirs))


def test_language_model_logits_are_judged_on_real_tokens(language_model, large_language_model, text_inputs):
    objective = LogitDistillation(language_model, large_language_model, temperature=2.0)
    loss = judge(objective, language_model, text_inputs)["distilled_logits"]
    real = text_inputs["attention_mask"]
    logits = [
        model.head(model.eval()(text_inputs).features[real])
        for model in (language_model, large_language_model)
    ]
    by_hand = distilled_logits(*logits, 2.0).mean()
    torch.testing.assert_close(loss, by_hand)


# ---- what they promise


CASES = {
    "logits": lambda student, teacher: LogitDistillation(student, teacher),
    "features": FeatureDistillation,
    "relations": relations,
}


@pytest.fixture(params=CASES)
def case(request):
    names = (
        ("language_model", "large_language_model")
        if request.param == "logits"
        else ("text_encoder", "teacher")
    )
    encoder, teacher = (request.getfixturevalue(name) for name in names)
    return CASES[request.param](encoder, teacher), encoder, teacher


def test_the_student_comes_nearer_and_the_teacher_does_not_move(case, text_inputs):
    objective, encoder, teacher = case
    objective.train()
    assert not any(module.training for module in teacher.modules())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    trained = [p for p in (*encoder.parameters(), *objective.parameters()) if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=3e-3)
    history = []
    for _ in range(60):
        loss = torch.stack(list(judge(objective, encoder, text_inputs).values())).sum()
        history.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert history[-1] < 0.7 * history[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_padding_does_not_change_the_loss(case, text_inputs):
    objective, encoder, _ = case
    padded = {name: nn.functional.pad(tensor, (0, 4)) for name, tensor in text_inputs.items()}
    torch.testing.assert_close(
        judge(objective, encoder, padded), judge(objective, encoder, text_inputs), rtol=1e-4, atol=1e-6
    )


def test_zero_rows_give_zero_with_gradients(case, text_inputs):
    objective, encoder, _ = case
    losses = judge(objective, encoder, {name: tensor[:0] for name, tensor in text_inputs.items()})
    assert all(loss == 0 for loss in losses.values())
    sum(losses.values()).backward()


def test_class_tokens_that_an_encoder_does_not_return_are_related_to(image_encoder, image_inputs):
    import copy

    names = [name for name, module in image_encoder.named_modules() if isinstance(module, nn.Linear)]
    last = [name for name in names if "layers.1" in name or "layer.1" in name][:3]
    objective = RelationDistillation(image_encoder, copy.deepcopy(image_encoder), last, last, num_heads=2)
    losses = judge(objective, image_encoder, image_inputs)
    for loss in losses.values():
        assert loss.item() == pytest.approx(0, abs=1e-6)


def test_a_teacher_to_whom_an_id_is_another_word_is_refused(case):
    objective, student, teacher = case
    build = relations if isinstance(objective, RelationDistillation) else type(objective)
    words = json.loads(teacher.tokenizer_json)
    ids = words["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]  # of equal size
    teacher.tokenizer_json = json.dumps(words)
    with pytest.raises(ValueError, match=r"id \d+ is 'a' to the student and 'b' to the teacher"):
        build(student, teacher)


def test_what_does_not_fit_is_refused(text_encoder, teacher, image_encoder, language_model, text_inputs):
    with pytest.raises(
        ValueError, match="has no module trunk\\.layers\\.7\\.attn\\.Wqkv; did you mean trunk"
    ):
        RelationDistillation(text_encoder, teacher, ["trunk.layers.7.attn.Wqkv"], TEACHER)
    with pytest.raises(ValueError, match="found 2 modules, expected query, key and value"):
        RelationDistillation(text_encoder, teacher, ["trunk", "trunk"], TEACHER)
    with pytest.raises(ValueError, match="relations are pairs of query, key, value"):
        relations(text_encoder, teacher, relations=[("query", "kee")])
    with pytest.raises(ValueError, match="16 does not divide into 5 relation heads"):
        judge(relations(text_encoder, teacher, num_heads=5), text_encoder, text_inputs)
    with pytest.raises(ValueError, match="the student of logits must be"):
        LogitDistillation(text_encoder, language_model)
    with pytest.raises(ValueError, match="temperature is 0"):
        LogitDistillation(language_model, language_model, temperature=0)
    with pytest.raises(ValueError, match="the teacher was given a Linear, expected an encoder"):
        FeatureDistillation(text_encoder, nn.Linear(2, 2))

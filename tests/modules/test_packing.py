"""Sequence packing: nothing is lost or cut, rows are well filled, and no text sees another."""

import random

import pytest
import torch

from modules.objectives.causal_language import CausalLanguage
from modules.packing import pack, pack_sequences


@pytest.mark.parametrize("seed", range(5))
def test_every_sequence_is_in_one_row_and_no_row_is_too_long(seed):
    draw = random.Random(seed)
    lengths = [draw.randint(0, 100) for _ in range(200)]
    rows = pack_sequences(lengths, 100)
    assert sorted(number for row in rows for number in row) == [n for n in range(200) if lengths[n]]
    assert all(sum(lengths[number] for number in row) <= 100 for row in rows)
    fewest = max(sum(lengths) / 100, sum(length > 50 for length in lengths))
    assert len(rows) <= 11 / 9 * fewest + 1


def test_a_sequence_goes_where_it_leaves_the_least_room():
    assert pack_sequences([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]


def test_a_sequence_that_is_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="a sequence has 11 tokens, a row takes 10"):
        pack_sequences([3, 11], 10)


def test_packed_rows_hold_every_text_from_its_first_position(text_inputs):
    packed = pack(text_inputs, 7)
    assert packed["attention_mask"].sum() == text_inputs["attention_mask"].sum()
    texts = [row[mask].tolist() for row, mask in zip(*text_inputs.values(), strict=True)]
    found = []
    for row in range(len(packed["input_ids"])):
        for segment in range(1, int(packed["segment_ids"][row].max()) + 1):
            inside = packed["segment_ids"][row] == segment
            found.append(packed["input_ids"][row, inside].tolist())
            assert packed["position_ids"][row, inside].tolist() == list(range(inside.sum()))
    assert sorted(found) == sorted(texts)


@pytest.mark.parametrize("pack_tokens", [64, 128])
def test_a_packed_batch_has_the_loss_and_gradients_of_the_padded_one(language_model, pack_tokens):
    lengths = torch.tensor([[40], [3], [1], [17], [9], [25], [64], [2]])
    mask = torch.arange(64) < lengths
    inputs = {"input_ids": torch.randint(10, 90, mask.shape) * mask, "attention_mask": mask}
    outcomes = []
    for objective in (CausalLanguage(language_model), CausalLanguage(language_model, pack_tokens)):
        language_model.zero_grad()
        seen, target = objective.corrupt(inputs)
        losses, scores = objective(language_model(seen), target)
        losses["causal_language"].backward()
        gradients = [parameter.grad.clone() for parameter in language_model.parameters()]
        outcomes.append((losses["causal_language"].detach(), scores["accuracy"], *gradients))
    padded, packed = outcomes
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-6)
    assert len(seen["input_ids"]) < len(lengths)


def test_no_texts_make_no_rows(language_model, text_inputs):
    objective = CausalLanguage(language_model, 64)
    seen, target = objective.corrupt({name: tensor[:0] for name, tensor in text_inputs.items()})
    losses, _ = objective(language_model(seen), target)
    assert losses["causal_language"] == 0
    losses["causal_language"].backward()


def test_rows_that_are_shorter_than_texts_may_be_are_refused(language_model):
    with pytest.raises(ValueError, match="pack_tokens is 32, and the language model takes texts of 64"):
        CausalLanguage(language_model, 32)

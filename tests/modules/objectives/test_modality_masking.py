"""Modality masking: rows leave the batch, as many as asked for, the same ones whenever the step is the same."""

import pytest
import torch

from modules.objectives.modality_masking import ModalityMasking

ROWS = {"image": torch.arange(0, 400), "text": torch.arange(100, 500), "audio": torch.arange(0, 500, 2)}
INPUTS = {name: {"value": rows * 10, "mask": torch.ones(len(rows), 2)} for name, rows in ROWS.items()}


def mask(module, inputs=INPUTS, rows=ROWS, size=500):
    return module(inputs, rows, size)


def test_rows_leave_inputs_and_rows_together_and_nothing_is_put_in_their_place():
    inputs, rows = mask(ModalityMasking(0.2))
    for name, kept in rows.items():
        assert len(kept) < len(ROWS[name]) and torch.isin(kept, ROWS[name]).all()
        assert (kept.diff() > 0).all()
        assert torch.equal(inputs[name]["value"], kept * 10)
        assert inputs[name]["mask"].shape == (len(kept), 2)


def test_about_the_share_is_taken_of_samples_that_have_modalities_to_spare():
    rows = {name: torch.arange(4000) for name in ("a", "b", "c", "d")}
    _, kept = mask(ModalityMasking(0.15), {name: {} for name in rows}, rows, 4000)
    taken = 1 - sum(len(each) for each in kept.values()) / 16000
    assert taken == pytest.approx(0.15, abs=0.015)


@pytest.mark.parametrize("at_least", [1, 2])
def test_no_sample_keeps_fewer_than_it_must(at_least):
    had = torch.zeros(500, dtype=torch.int64)
    kept = torch.zeros(500, dtype=torch.int64)
    _, rows = mask(ModalityMasking(0.95, at_least=at_least))
    for name in ROWS:
        had[ROWS[name]] += 1
        kept[rows[name]] += 1
    assert torch.equal(kept >= at_least, had >= at_least)
    assert (kept[had > 0] >= 1).all()


def test_the_same_seed_and_step_take_the_same_whatever_the_order_of_modalities():
    one, other = ModalityMasking(0.3, seed=1), ModalityMasking(0.3, seed=1)
    mask(other)
    other.load_state_dict(one.state_dict())  # back at step 0
    _, rows = mask(one)
    backwards = {name: ROWS[name] for name in reversed(ROWS)}
    _, again = mask(other, {name: INPUTS[name] for name in backwards}, backwards)
    assert all(torch.equal(rows[name], again[name]) for name in ROWS)
    _, later = mask(one)
    _, foreign = mask(ModalityMasking(0.3, seed=2))
    assert not torch.equal(later["image"], rows["image"])
    assert not torch.equal(foreign["image"], rows["image"])


def test_evaluation_sees_everything():
    inputs, rows = mask(ModalityMasking(0.9).eval())
    assert all(torch.equal(rows[name], ROWS[name]) for name in ROWS)
    assert all(torch.equal(inputs[name]["value"], INPUTS[name]["value"]) for name in ROWS)


def test_an_empty_modality_and_an_empty_batch_stay_empty():
    rows = {"image": torch.arange(3), "audio": torch.arange(0)}
    inputs = {name: {"value": each} for name, each in rows.items()}
    assert len(mask(ModalityMasking(0.5), inputs, rows, 3)[1]["audio"]) == 0
    empty = {name: each[:0] for name, each in rows.items()}
    assert len(mask(ModalityMasking(0.5), {name: {} for name in rows}, empty, 0)[1]["image"]) == 0


@pytest.mark.parametrize("settings", [{"share": 1.0}, {"share": -0.1}, {"at_least": 0}])
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ValueError, match=r"expected from 0|must keep one"):
        ModalityMasking(**settings)

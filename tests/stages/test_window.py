"""Accumulation: batches weigh by their terms, so that several in turn are one large one."""

import pytest
import torch
from torch.nn.functional import mse_loss

from modules.collectives import counted, global_mean
from stages.window import Window


def step(batches: list[torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    """Return the gradient that Lightning and the window make of batches of numbers."""
    window = Window()
    for batch in batches:
        with counted() as counts:
            loss = global_mean(mse_loss(weight * batch, torch.ones(len(batch)), reduction="sum"), len(batch))
        (loss * window.weight(counts) / len(batches)).backward()
    window.close([weight.grad], len(batches))
    return weight.grad


@pytest.mark.parametrize("sizes", [[3, 1, 8], [0, 5, 2], [4], [1, 0], [0, 0]])
def test_batches_of_any_size_make_the_gradient_of_the_whole(sizes):
    terms = torch.randn(sum(sizes), dtype=torch.float64)
    found = step(list(terms.split(sizes)), torch.tensor(0.3, dtype=torch.float64, requires_grad=True))
    whole = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (mse_loss(whole * terms, torch.ones_like(terms), reduction="sum") / max(1, len(terms))).backward()
    torch.testing.assert_close(found, whole.grad)


def test_a_window_begins_anew_after_its_step():
    window = Window()
    window.weight([torch.tensor(10.0)])
    window.close([], 1)
    assert window.weight([torch.tensor(3.0)]) == 1


def test_losses_over_different_numbers_of_terms_are_refused():
    with pytest.raises(ValueError, match=r"different numbers of terms \(3, 4\)"):
        Window().weight([torch.tensor(3.0), torch.tensor(4.0)])


def test_a_loss_that_is_no_mean_is_refused():
    with pytest.raises(ValueError, match="over how many terms"):
        Window().weight([])


def test_counts_are_collected_within_alone():
    with counted() as counts:
        global_mean(torch.tensor(6.0), 3)
    global_mean(torch.tensor(6.0), 2)
    assert [int(count) for count in counts] == [3]

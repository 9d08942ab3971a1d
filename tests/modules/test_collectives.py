"""Collectives: what two processes make together is what one makes of all rows."""

import pytest
import torch

from modules.collectives import gather_counts, gather_rows, global_mean, logsumexp_over_ranks

ROWS = {0: [[1.0, 2.0], [3.0, 4.0]], 1: []}
TERMS = {0: [1.0, 2.0, 3.0, 4.0, 5.0], 1: [12.0]}


@pytest.fixture(scope="module")
def ranks(on_two_ranks):
    return on_two_ranks(on_one)


def on_one(rank):
    rows = torch.tensor(ROWS[rank]).view(-1, 2)
    counts = gather_counts(torch.tensor([len(rows), 7 + rank]))
    terms = torch.tensor(TERMS[rank], requires_grad=True)
    mean = global_mean(terms.sum(), len(terms))
    mean.backward()
    nothing = torch.zeros(0, requires_grad=True)
    absent = global_mean(nothing.sum(), 0)
    absent.backward()
    return {
        "counts": counts,
        "rows": gather_rows(rows, [each[0] for each in counts]),
        "mean": mean.detach(),
        "gradient": terms.grad,
        "absent": absent.detach(),
        "logsumexp": logsumexp_over_ranks(torch.tensor([float(rank), -torch.inf])),
    }


def test_counts_and_rows_of_uneven_ranks_arrive_on_both(ranks):
    for rank in ranks:
        assert rank["counts"] == [[2, 7], [0, 8]]
        assert rank["rows"].tolist() == ROWS[0]


def test_the_mean_over_ranks_is_the_mean_over_all_terms(ranks):
    terms = torch.tensor(TERMS[0] + TERMS[1], requires_grad=True)
    terms.mean().backward()
    assert (ranks[0]["mean"] + ranks[1]["mean"]) / 2 == terms.mean()
    averaged = torch.cat([ranks[0]["gradient"], ranks[1]["gradient"]]) / 2  # as DDP averages
    torch.testing.assert_close(averaged, terms.grad)


def test_no_term_anywhere_gives_zero(ranks):
    assert ranks[0]["absent"] == 0 and ranks[1]["absent"] == 0


def test_logsumexp_over_ranks_adds_up_exponentials(ranks):
    expected = torch.tensor([0.0, 1.0]).logsumexp(0)
    for rank in ranks:
        torch.testing.assert_close(rank["logsumexp"][0], expected)
        assert rank["logsumexp"][1] == -torch.inf


def test_alone_the_mean_is_the_mean():
    terms = torch.tensor([1.0, 2.0, 6.0])
    assert global_mean(terms.sum(), 3) == 3
    assert global_mean(terms[:0].sum(), 0) == 0

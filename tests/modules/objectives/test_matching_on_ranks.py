"""Matching on two ranks: their mean is what one process makes of all their questions, and of all their samples."""

import pytest
import torch
from torch import nn

from modules.fusion.concat import ConcatFusion
from modules.objectives.aligned import Aligned
from modules.objectives.matching import Matching
from modules.tokens import full

COUNTS = {"even": (8, 8), "uneven": (7, 3), "one alone": (6, 1), "one without": (5, 0)}
"""Samples of rank 0 and of rank 1; one sample has no false partner, so it asks nothing."""


def objective():
    torch.manual_seed(0)
    return Matching(ConcatFusion({"image": 8, "text": 8}, dim=6), logit_scale=5.0, group=4).double()


def batch(case, rank):
    """Return the samples of one rank, whose tokens want gradients."""
    generator = torch.Generator().manual_seed(3)
    count = sum(COUNTS[case])
    begin = sum(COUNTS[case][:rank])
    mine = slice(begin, begin + COUNTS[case][rank])
    features = {
        name: torch.randn(count, 2, 8, generator=generator, dtype=torch.float64)[mine].requires_grad_()
        for name in ("image", "text")
    }
    rows = torch.arange(COUNTS[case][rank])
    return Aligned(
        {name: nn.functional.normalize(each.detach()[:, 0], dim=1) for name, each in features.items()},
        dict.fromkeys(features, rows),
        len(rows),
        {name: full(each) for name, each in features.items()},
    )


def on_one(rank):
    """Return, by case, a rank's loss, its gradients, and what it asked."""
    return {case: judged(objective(), batch(case, rank)) for case in COUNTS}


def judged(matching, aligned):
    asked, judge = [], matching.judge
    matching.judge = lambda questions, answer: asked.append((questions, answer)) or judge(questions, answer)
    (loss,) = matching(aligned).values()
    loss.backward()
    [(questions, answer)] = asked
    return {
        "loss": loss.detach(),
        "parameters": [parameter.grad for parameter in matching.parameters()],
        "tokens": {name: tokens.features.grad for name, tokens in aligned.tokens.items()},
        "questions": {name: tokens.features.detach() for name, tokens in questions.items()},
        "answer": answer,
    }


@pytest.fixture(scope="module")
def ranks(on_two_ranks):
    return on_two_ranks(on_one)


@pytest.mark.parametrize("case", COUNTS)
def test_the_mean_of_the_ranks_is_the_loss_over_all_their_questions(case, ranks):
    found = [rank[case] for rank in ranks]
    questions = {name: torch.cat([each["questions"][name] for each in found]) for name in ("image", "text")}
    alone = objective()
    loss = alone.judge(
        {name: full(features) for name, features in questions.items()},
        torch.cat([each["answer"] for each in found]),
    )
    loss.backward()
    torch.testing.assert_close((found[0]["loss"] + found[1]["loss"]) / 2, loss.detach())
    for one, two, whole in zip(
        found[0]["parameters"], found[1]["parameters"], alone.parameters(), strict=True
    ):
        torch.testing.assert_close((one + two) / 2, whole.grad)  # as DDP averages


@pytest.mark.parametrize("case", COUNTS)
def test_false_partners_are_a_rank_s_own(case, ranks):
    for rank, found in enumerate(each[case] for each in ranks):
        own = batch(case, rank).tokens
        for name, asked in found["questions"].items():
            assert all((row == own[name].features).flatten(1).all(1).any() for row in asked)
        groups = [min(4, COUNTS[case][rank] - begin) for begin in range(0, COUNTS[case][rank], 4)]
        asks = sum(size for size in groups if size > 1)
        assert found["answer"].tolist() == [1] * asks + [0] * 2 * asks


def test_a_rank_that_asks_nothing_has_gradients_of_zero(ranks):
    for case in ("one alone", "one without"):
        found = ranks[1][case]
        assert found["loss"] == 0
        assert all(not gradient.any() for gradient in found["parameters"])
        assert all(not gradient.any() for gradient in found["tokens"].values())


def test_where_groups_divide_the_shares_two_ranks_ask_what_one_process_asks(ranks, monkeypatch):
    """One process is given the samples of both."""
    monkeypatch.setitem(COUNTS, "all", (16, 0))
    whole = judged(objective(), batch("all", 0))
    halves = [rank["even"] for rank in ranks]
    torch.testing.assert_close((halves[0]["loss"] + halves[1]["loss"]) / 2, whole["loss"])
    for one, two, both in zip(*(each["parameters"] for each in (*halves, whole)), strict=True):
        torch.testing.assert_close((one + two) / 2, both)
    for name in ("image", "text"):
        averaged = torch.cat([half["tokens"][name] for half in halves]) / 2
        torch.testing.assert_close(averaged, whole["tokens"][name])

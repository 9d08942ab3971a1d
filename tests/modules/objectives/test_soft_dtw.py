"""Soft-DTW: equal to its definition over all paths, in value and gradient."""

import dataclasses
import itertools
import math

import pytest
import torch

from modules.objectives.aligned import Aligned
from modules.objectives.soft_dtw import soft_dtw
from modules.objectives.temporal import TemporalAlignment
from modules.tokens import Tokens, full


def paths(n, m, i=0, j=0):
    """Yield every monotone path from a cell to the last, as lists of cells."""
    if (i, j) == (n - 1, m - 1):
        yield [(i, j)]
        return
    for di, dj in ((0, 1), (1, 0), (1, 1)):
        if i + di < n and j + dj < m:
            for rest in paths(n, m, i + di, j + dj):
                yield [(i, j), *rest]


def by_definition(cost, gamma):
    """Soft minimum over all paths: arXiv:1703.01541, eq. 2."""
    totals = torch.stack([sum(cost[i, j] for i, j in path) for path in paths(*cost.shape)])
    return -gamma * torch.logsumexp(-totals / gamma, 0)


def whole(cost):
    batch, n, m = cost.shape
    return torch.full((batch,), n), torch.full((batch,), m)


@pytest.mark.parametrize("n, m", [*itertools.product([1, 2, 4], [1, 3, 5]), (6, 2)])
@pytest.mark.parametrize("gamma", [0.05, 1.0, 10.0])
def test_value_and_gradient_equal_the_sum_over_all_paths(n, m, gamma):
    cost = torch.randn(2, n, m, dtype=torch.float64, requires_grad=True)
    ours = soft_dtw(cost, *whole(cost), gamma)
    theirs = torch.stack([by_definition(table, gamma) for table in cost])
    torch.testing.assert_close(ours, theirs)
    upstream = torch.tensor([1.0, -2.5], dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(ours @ upstream, cost), torch.autograd.grad(theirs @ upstream, cost)
    )


def test_gradient_is_that_of_finite_differences_with_lengths_of_their_own():
    cost = torch.rand(4, 5, 4, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([5, 2, 1, 0]), torch.tensor([4, 4, 1, 3])
    assert torch.autograd.gradcheck(lambda table: soft_dtw(table, *lengths, 0.3), cost)


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -1e9])
def test_what_lies_behind_the_lengths_is_not_read(rubbish):
    cost = torch.rand(3, 6, 7, dtype=torch.float64)
    lengths = torch.tensor([6, 3, 1]), torch.tensor([2, 7, 5])
    filled = torch.full_like(cost, rubbish)
    expected, gradients = [], torch.zeros_like(cost)
    for index, (n, m) in enumerate(zip(*(each.tolist() for each in lengths), strict=True)):
        filled[index, :n, :m] = cost[index, :n, :m]
        part = cost[index : index + 1, :n, :m].clone().requires_grad_()
        value = soft_dtw(part, *whole(part), 0.5)
        value.sum().backward()
        expected.append(value.detach())
        gradients[index, :n, :m] = part.grad
    filled.requires_grad_()
    ours = soft_dtw(filled, *lengths, 0.5)
    torch.testing.assert_close(ours, torch.cat(expected))
    ours.sum().backward()
    torch.testing.assert_close(filled.grad, gradients)


def test_an_empty_sequence_gives_zero_and_no_gradient():
    cost = torch.rand(2, 3, 3, requires_grad=True)
    value = soft_dtw(cost, torch.tensor([0, 3]), torch.tensor([3, 0]))
    value.sum().backward()
    assert (value == 0).all() and (cost.grad == 0).all()
    nothing = torch.zeros(0, 3, 3, requires_grad=True)
    soft_dtw(nothing, torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)).sum().backward()
    assert nothing.grad.shape == (0, 3, 3)


def test_towards_zero_gamma_it_is_dynamic_time_warping():
    from dtw import dtw

    cost = torch.rand(1, 9, 12, dtype=torch.float64)
    hard = dtw(cost[0].numpy(), step_pattern="symmetric1", distance_only=True).distance
    assert soft_dtw(cost, *whole(cost), 1e-4).item() == pytest.approx(hard, abs=1e-3)


def test_the_number_of_operations_grows_with_the_diagonals_not_with_the_cells():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            self.calls += 1
            return function(*arguments, **(keywords or {}))

    calls = []
    for size in (20, 40, 80):
        cost = torch.rand(2, size, size, requires_grad=True)
        with Count() as count:
            soft_dtw(cost, *whole(cost)).sum().backward()
        calls.append(count.calls)
    assert calls[2] - calls[1] == pytest.approx(2 * (calls[1] - calls[0]), rel=0.01)


def test_settings_that_cannot_work_are_refused():
    cost = torch.rand(1, 2, 2)
    with pytest.raises(ValueError, match="gamma is 0"):
        soft_dtw(cost, *whole(cost), 0)
    with pytest.raises(ValueError, match="a sequence of 3 steps in a table of 2"):
        soft_dtw(cost, torch.tensor([3]), torch.tensor([2]))


# ---- the objective


def test_training_brings_steps_of_the_same_moment_together():
    """Audio says each frame twice, with another matrix: a projection can undo that, and the order tells which."""
    torch.manual_seed(0)
    frames = torch.randn(8, 5, 6)
    sound = (frames @ torch.randn(6, 7)).repeat_interleave(2, 1)
    rows = {"video": torch.arange(8), "audio": torch.arange(8)}
    batch = Aligned(
        {"video": frames[:, 0], "audio": sound[:, 0]}, rows, 8, {"video": full(frames), "audio": full(sound)}
    )
    objective = TemporalAlignment({"video": 6, "audio": 7}, dim=4)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.02)
    history = []
    for _ in range(40):
        loss = objective(batch)["temporal_video_audio"]
        history.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert history[-1] < 0.5 * history[0]


def test_samples_that_lack_one_and_padding_do_not_change_the_loss(aligned):
    objective = TemporalAlignment({"video": 8, "audio": 8}, dim=4).double()
    some = aligned({"video": [0, 1, 3, 4], "audio": [1, 2, 4, 5]})
    loss = objective(some)["temporal_video_audio"]
    shared = {"video": [1, 3], "audio": [0, 2]}  # rows of samples 1 and 4
    tokens = {
        name: Tokens(
            torch.nn.functional.pad(some.tokens[name].features[index], (0, 0, 0, 3), value=7.0),
            torch.nn.functional.pad(some.tokens[name].mask[index], (0, 3)),
        )
        for name, index in shared.items()
    }
    embeddings = {name: some.embeddings[name][index] for name, index in shared.items()}
    both = Aligned(embeddings, {name: torch.arange(2) for name in shared}, 2, tokens)
    torch.testing.assert_close(objective(both)["temporal_video_audio"], loss)


def test_where_padding_stands_does_not_change_the_loss(aligned):
    objective = TemporalAlignment({"video": 8, "audio": 8}, dim=4).double()
    batch = aligned({"video": [0, 1, 3], "audio": [0, 1, 3]})
    video = batch.tokens["video"]
    features = torch.full((3, 2 * video.mask.shape[1], 8), torch.nan, dtype=torch.float64)
    features[:, 1::2] = video.features  # a token of padding before each
    mask = torch.zeros(features.shape[:2], dtype=torch.bool)
    mask[:, 1::2] = video.mask
    spread = dataclasses.replace(batch, tokens={**batch.tokens, "video": Tokens(features, mask)})
    torch.testing.assert_close(objective(spread), objective(batch))


def test_no_shared_sample_gives_zero_with_gradients(aligned):
    objective = TemporalAlignment({"video": 8, "audio": 8}, dim=4).double()
    loss = objective(aligned({"video": [0, 1], "audio": [2]}))["temporal_video_audio"]
    loss.backward()
    assert loss == 0 and all(parameter.grad is not None for parameter in objective.parameters())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="gamma is 0, expected more than 0"):
        TemporalAlignment({"video": 8, "audio": 8}, dim=4, gamma=0)
    with pytest.raises(ValueError, match="between two modalities, widths names 1: video"):
        TemporalAlignment({"video": 8}, dim=4)
    with pytest.raises(ValueError, match="asks for audio, the model has video, text"):
        TemporalAlignment({"video": 8, "audio": 8}, dim=4).configure({"video": 8, "text": 8}, 4)
    with pytest.raises(ValueError, match="tokens are 8 wide, widths says 9: say 8"):
        TemporalAlignment({"video": 8, "audio": 9}, dim=4).configure({"video": 8, "audio": 8}, 4)

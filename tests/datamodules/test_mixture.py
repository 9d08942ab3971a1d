"""Mixture: each source has its share in every period and its own epochs, and any position is found at once."""

import numpy as np
import pytest

from datamodules.mixture import Mixture, MixtureSource, quotas
from datamodules.shards.order import Order

SIZES = (10, 25, 7)


def mixture(weights=(3, 1, 1), seed=0):
    orders = [Order(size, seed=(seed, 4, number)) for number, size in enumerate(SIZES)]
    return Mixture(orders, weights, seed=seed)


def sources(samples):
    return np.searchsorted(np.cumsum(SIZES), samples, side="right")


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((3, 1), (750, 250)),
        ((1, 1, 1), (333, 333, 333)),
        ((0.7, 0.2, 0.1), (700, 200, 100)),
        ((5,), (1000,)),
        ((1, 1e-3), (999, 1)),
        ((2, 7), (222, 777)),
    ],
)
def test_quotas_have_the_proportions_of_the_weights(weights, expected):
    assert tuple(quotas(weights)) == expected


def test_weights_that_no_period_fits_are_shared_out_by_the_largest_remainder():
    shares = np.array([np.pi, np.e, 1.0])
    found = quotas(shares)
    assert np.abs(found - shares / shares.sum() * found.sum()).max() < 1
    assert 0 < found.sum() <= 1000


def test_proportions_are_exact_in_every_period_and_its_order_differs():
    mixed = mixture()
    periods = [sources(mixed.span(n * mixed.period, (n + 1) * mixed.period)) for n in range(4)]
    assert all(np.bincount(period).tolist() == mixed.quotas.tolist() for period in periods)
    assert len({tuple(period) for period in periods}) == 4


def test_each_source_goes_through_its_own_epochs():
    mixed = mixture()
    samples = mixed.span(0, 3 * mixed.period)
    for source, size in enumerate(SIZES):
        own = samples[sources(samples) == source]
        for epoch in own[: len(own) // size * size].reshape(-1, size):
            assert len(set(epoch)) == size


def test_any_position_is_the_one_that_a_run_from_the_start_comes_to():
    whole = mixture().span(0, 5000)
    for start in (0, 1, 999, 1000, 1001, 4321):
        assert mixture().span(start, min(5000, start + 1200)).tolist() == whole[start : start + 1200].tolist()


def test_a_far_position_lays_out_one_period_and_permutes_one_epoch_of_each_source(monkeypatch):
    mixed, made = mixture(), []
    for order in mixed.orders:
        permuted = order._permuted
        monkeypatch.setattr(order, "_permuted", lambda g, permuted=permuted: made.append(1) or permuted(g))
    mixed.span(10**12, 10**12 + 5)
    assert len(made) <= 2 * len(SIZES)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_not_positive_is_refused(weight):
    with pytest.raises(ValueError, match=r"the weight of a is .*: expected more than 0"):
        MixtureSource("a", weight)


def test_a_weight_too_small_for_one_place_in_a_period_is_refused():
    with pytest.raises(ValueError, match="less than one sample in 1000"):
        quotas([1, 1e-6])

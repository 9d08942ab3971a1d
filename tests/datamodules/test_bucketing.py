"""LengthBuckets: less padding, each sample once, and the same from any position."""

import numpy as np
import pytest

from datamodules.bucketing import LengthBuckets
from datamodules.shards.order import Order

LENGTHS = np.random.default_rng(0).geometric(0.02, 1000)


def buckets(num_batches=10, batch_size=8, seed=0):
    return LengthBuckets(
        Order(1000, seed=seed), LENGTHS, batch_size=batch_size, num_batches=num_batches, seed=seed
    )


def padding(samples, batch_size=8):
    lengths = LENGTHS[samples[: len(samples) // batch_size * batch_size]].reshape(-1, batch_size)
    return 1 - lengths.sum() / (lengths.max(axis=1) * batch_size).sum()


def test_padding_falls_below_a_third_of_what_it_is_unsorted():
    assert padding(buckets(20).span(0, 1000)) < padding(Order(1000, seed=0).span(0, 1000)) / 3


def test_every_sample_comes_once_an_epoch_up_to_the_window_that_lies_across_its_end():
    samples = buckets().span(0, 8000)
    assert sorted(samples) == sorted(np.tile(np.arange(1000), 8))
    for window in range(0, 8000, 80):
        assert sorted(samples[window : window + 80]) == sorted(Order(1000, seed=0).span(window, window + 80))


def test_batches_do_not_come_by_length():
    longest = LENGTHS[buckets(50).span(0, 400)].reshape(-1, 8).max(axis=1)
    assert np.abs(np.corrcoef(np.arange(50), longest)[0, 1]) < 0.5


@pytest.mark.parametrize("start", [0, 8, 72, 80, 81, 500, 992])
def test_any_position_is_the_one_that_a_run_from_the_start_comes_to(start):
    assert (
        buckets().span(start, start + 200).tolist() == buckets().span(0, 1200)[start : start + 200].tolist()
    )


@pytest.mark.parametrize("numbers", [{"batch_size": 0}, {"num_batches": 0}])
def test_windows_of_nothing_are_refused(numbers):
    with pytest.raises(ValueError, match="expected at least 1 each"):
        buckets(**numbers)

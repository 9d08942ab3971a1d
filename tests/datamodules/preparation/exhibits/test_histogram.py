"""Histogram: the same counts however the stream is cut, in bins that hold what they say."""

import json
import math

import numpy as np
import pytest

from datamodules.preparation.exhibits.histogram import Histogram


@pytest.mark.parametrize("width", [None, 3.0])
def test_stopping_and_going_on_anywhere_changes_nothing(width):
    values = np.random.default_rng(0).lognormal(3, 2, 200).tolist()
    whole = Histogram(width)
    for value in values:
        whole.add(value)
    for stop in (0, 1, 77, 200):
        begun = Histogram(width)
        for value in values[:stop]:
            begun.add(value)
        resumed = Histogram.from_plain(json.loads(json.dumps(begun.to_plain())))
        for value in values[stop:]:
            resumed.add(value)
        assert resumed == whole
        assert json.dumps(resumed.to_plain()) == json.dumps(whole.to_plain())


@pytest.mark.parametrize("width", [None, 0.1, 3.0])
def test_every_value_lies_in_the_bin_that_counts_it(width):
    for value in (1, 10, 1000, 0.3, 0.7, 2.999999, 12345.678, 1e-7):
        histogram = Histogram(width)
        histogram.add(value)
        [(number, count)] = histogram
        assert count == 1
        assert histogram.edge(number) <= value * (1 + 1e-6) and value < histogram.edge(number + 1)


def test_memory_does_not_grow_with_the_number_of_values():
    histogram = Histogram()
    for value in range(1, 20_000):
        histogram.add(value)
    assert len(histogram) == 19_999 and len(histogram.bins) <= 10 * math.log10(20_000) + 1


def test_what_has_no_place_on_a_logarithmic_scale_is_counted_apart():
    histogram = Histogram()
    for value in (0, -3, 5):
        histogram.add(value)
    assert (len(histogram), histogram.not_positive, histogram.least) == (3, 2, -3)
    assert [count for _, count in histogram] == [1]


def test_negative_values_have_bins_on_a_linear_scale():
    histogram = Histogram(3.0)
    for value in (-100.0, -99.0, -1.0, 0.0):
        histogram.add(value)
    assert {number: count for number, count in histogram if count} == {-34: 1, -33: 1, -1: 1, 0: 1}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="finite"):
        Histogram().add(value)


def test_the_median_is_right_to_within_its_bin():
    histogram = Histogram()
    values = np.random.default_rng(1).lognormal(2, 1, 1001)
    for value in values:
        histogram.add(float(value))
    assert histogram.quantile(0.5) == pytest.approx(float(np.median(values)), rel=0.26)
    assert histogram.quantile(0.0) == pytest.approx(values.min(), rel=0.26)
    assert histogram.quantile(1.0) == pytest.approx(values.max(), rel=0.26)


def test_the_median_of_equal_values_is_that_value():
    histogram = Histogram()
    for _ in range(5):
        histogram.add(64)
    assert histogram.quantile(0.5) == 64


def test_nothing_counted_is_nothing_shown():
    assert list(Histogram()) == [] and len(Histogram()) == 0
    assert Histogram().quantile(0.5) == 0
    assert Histogram.from_plain(Histogram().to_plain()) == Histogram()

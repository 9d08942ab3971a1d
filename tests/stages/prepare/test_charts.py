"""Charts of the report: every value is drawn where it belongs, and lone ones do not look like many."""

import re

import pytest

from datamodules.preparation.exhibits.histogram import Histogram
from stages.prepare.charts import Cues, Spans, bars, clock, cues, number, round_numbers, spans


def filled(values: list[float], width: float | None = None) -> Histogram:
    histogram = Histogram(width)
    for value in values:
        histogram.add(value)
    return histogram


def counts(drawn: str) -> list[int]:
    return [int(count) for count in re.findall(r": (\d+)</title>", drawn)]


@pytest.mark.parametrize("width", [None, 0.1, 3.0])
def test_every_value_is_in_one_bar_however_many_bins_are_joined(width):
    drawn = bars(filled([1.5**n for n in range(20)], width), title="x")
    assert sum(counts(drawn)) == 20 and len(counts(drawn)) <= 61


def test_a_lone_value_stands_among_empty_bins():
    assert sorted(counts(bars(filled([64.0] * 9), title="x")))[-2:] == [0, 9]


def test_values_without_a_place_on_the_scale_are_told_in_words():
    assert "all of them 0 or below" in bars(filled([0.0, 0.0]), title="x")


@pytest.mark.parametrize(("low", "high"), [(1, 13), (64, 64), (40, 126_000), (1, 1e9)])
def test_an_axis_has_a_few_round_numbers(low, high):
    histogram = filled([low, high])
    numbers = [number for number, _ in histogram]
    found = round_numbers(histogram, min(numbers) - 3, max(numbers) + 4)
    assert 1 <= len(found) <= 5
    assert all(re.fullmatch(r"[125]0*", f"{value:.0f}") for value in found)


def test_cues_are_drawn_to_their_own_scale_in_the_unit_that_suits_it():
    drawn = cues(Cues([1.0, 61.0], [4000.0, 5000.0], [0.5, -0.5]), title="x")
    assert "5 s" in drawn and "0.5 ms" in drawn and "0:01" in drawn and "1:01" in drawn


def test_of_many_cues_only_so_many_are_drawn_as_can_be_told_apart():
    many = [float(n) for n in range(5000)]
    assert cues(Cues(many, many, many), title="x").count("<circle") <= 800


def test_numbers_have_the_digits_that_matter():
    assert [number(value) for value in (0, 0.0004, 7.98, 1146, 34_700, 2.5e6, 3e9, -12)] == [
        "0", "0.0004", "7.98", "1,150", "34.7 k", "2.5 M", "3 G", "-12",
    ]  # fmt: skip
    assert clock(3725) == "62:05"


def test_a_cue_is_drawn_where_it_was_and_where_it_is_over_the_sound():
    drawn = spans(Spans(20.0, [0.0, 1.0], before=[(12.0, 14.0)], after=[(2.0, 4.0)]), title="x")
    boxes = [
        (float(x), float(width))
        for x, width in re.findall(r'<rect x="([\d.]+)"[^>]*? width="([\d.]+)"', drawn)
    ]
    a_second = (360 - 58 - 10) / 20
    before, after = boxes
    assert before == pytest.approx((58 + 12 * a_second, 2 * a_second), abs=0.1)
    assert after == pytest.approx((58 + 2 * a_second, 2 * a_second), abs=0.1)


def test_a_cue_beyond_the_sound_stays_in_the_picture():
    drawn = spans(Spans(10.0, [], before=[(38.0, 40.0)], after=[(1.0, 2.0)]), title="x")
    assert all(
        float(x) + float(w) <= 351 for x, w in re.findall(r'<rect x="([\d.]+)"[^>]*? width="([\d.]+)"', drawn)
    )

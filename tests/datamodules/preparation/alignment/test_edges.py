"""Edges of pauses on sound made of noise, whose beginnings are known."""

import numpy as np
import pytest

from datamodules.preparation.alignment.edges import Edges

RATE_HZ = 16_000
START_S, SOFT_S, LOUD_S = 1.0, 0.08, 0.5
FAINT = 0.3
"""A soft beginning of this amplitude drowns in noise of unit amplitude."""


def spoken(soft: float) -> np.ndarray:
    """Speech that is soft for SOFT_S, of that amplitude, and then loud."""
    amplitudes = np.repeat([soft, 8.0], [round(SOFT_S * RATE_HZ), round(LOUD_S * RATE_HZ)])
    return np.random.default_rng(0).normal(size=len(amplitudes)) * amplitudes


def in_noise(speech: np.ndarray) -> np.ndarray:
    """The speech from START_S on, in noise."""
    sound = np.random.default_rng(1).normal(size=3 * RATE_HZ)
    start = round(START_S * RATE_HZ)
    sound[start : start + len(speech)] += speech
    return sound


def start_s(sound: np.ndarray, reference: np.ndarray) -> float:
    """Where the speech starts by the edge and by what of the reference drowns before it."""
    edges = Edges(sound)
    said_db = edges.as_said(edges.loudness(reference), START_S, START_S + SOFT_S + LOUD_S)
    begins_s = edges.start_near(START_S + SOFT_S)
    return begins_s - edges.drowned_s(said_db, begins_s, pace=1.0)


def test_a_soft_beginning_that_drowns_is_added_back():
    assert Edges(in_noise(spoken(FAINT))).start_near(START_S) == pytest.approx(START_S + SOFT_S, abs=0.01)
    assert start_s(in_noise(spoken(FAINT)), spoken(FAINT)) == pytest.approx(START_S, abs=0.01)


def test_a_soft_beginning_that_is_heard_is_not_added_once_more():
    assert start_s(in_noise(spoken(1.5)), spoken(FAINT)) == pytest.approx(START_S, abs=0.01)


def test_a_beginning_that_is_loud_in_the_reference_starts_at_the_edge():
    assert start_s(in_noise(spoken(8.0)), spoken(8.0)) == pytest.approx(START_S, abs=0.01)


def test_a_start_moves_further_back_to_an_edge_than_ahead_and_than_an_end():
    edges = Edges(in_noise(spoken(8.0)))
    end_s = START_S + SOFT_S + LOUD_S
    assert edges.start_near(START_S + 0.25) == pytest.approx(START_S, abs=0.01)
    assert edges.start_near(START_S + 0.4) is None
    assert edges.start_near(START_S - 0.25) is None
    assert edges.end_near(end_s + 0.1) == pytest.approx(end_s, abs=0.01)
    assert edges.end_near(end_s + 0.25) is None

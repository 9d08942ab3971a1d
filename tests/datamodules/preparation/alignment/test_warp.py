"""Warping with open ends, against dtw-python as reference."""

import numpy as np
import pytest

from datamodules.preparation.alignment.warp import warp


@pytest.mark.parametrize("seed", range(60))
def test_path_and_distance_are_those_of_dtw_python(seed):
    from dtw import asymmetricP05, dtw

    rng = np.random.default_rng(seed)
    cost = rng.random(rng.integers((1, 12), (20, 60)))
    warping = warp(cost)
    expected = dtw(cost, step_pattern=asymmetricP05, open_begin=True, open_end=True)
    end = int(warping.distances.argmin())
    assert (end, warping.distances[end]) == (expected.jmin, pytest.approx(expected.normalizedDistance))
    rows, columns = warping.path(end)
    np.testing.assert_array_equal(rows, expected.index1)
    np.testing.assert_array_equal(columns, expected.index2)
    assert warping.begins[end] == columns[0]


def test_every_end_tells_where_its_own_path_begins():
    warping = warp(np.random.default_rng(0).random((9, 40)))
    for end in np.flatnonzero(np.isfinite(warping.distances)):
        assert warping.path(int(end))[1][0] == warping.begins[end]


def test_a_piece_is_found_where_it_was_cut_out():
    frames = np.random.default_rng(0).normal(size=(200, 13))
    cost = np.linalg.norm(frames[50:90, None] - frames[None], axis=2)
    warping = warp(cost)
    rows, columns = warping.path(int(warping.distances.argmin()))
    np.testing.assert_array_equal(columns - rows, 50)
    assert warping.distances.min() == pytest.approx(0, abs=1e-6)


def test_a_query_of_more_than_three_times_the_length_has_no_path():
    warping = warp(np.ones((30, 8)))
    assert np.isinf(warping.distances).all()
    assert (warping.begins == -1).all()

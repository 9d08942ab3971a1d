"""How badly cues fit what is heard, by made-up hearings."""

import numpy as np
import pytest

from datamodules.preparation.alignment.hearing import CHANCE, Hearing, Place, mismatch

HEARING = Hearing(
    slice(0, 90), 20, begins=np.array([10, 50]), ends=np.array([30, 70]), fit=np.array([-4.0, -2.0])
)


def place(candidate):
    """Where a hearing's candidate is; None is the line's word."""
    return Place(0, 1, 0.0, candidate, candidate is not None)


def test_cues_found_where_they_fit_best_mismatch_by_how_well_they_fit():
    assert mismatch([place(0)] * 3, [HEARING] * 3) == pytest.approx(np.exp(-4.0 / CHANCE))


def test_cues_that_fit_better_elsewhere_mismatch_more():
    few = mismatch([place(0), place(0), place(1)], [HEARING] * 3)
    most = mismatch([place(0), place(1), place(1)], [HEARING] * 3)
    assert np.exp(-4.0 / CHANCE) < few < most <= 1


def test_cues_that_are_nowhere_heard_mismatch_as_by_chance():
    assert mismatch([place(None)] * 3, [HEARING] * 3) == 1

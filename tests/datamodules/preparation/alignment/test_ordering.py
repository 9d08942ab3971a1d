"""Of the places of each cue, those that keep the order."""

from datamodules.preparation.alignment.ordering import in_order


def test_the_cheapest_place_is_taken_where_order_allows():
    assert in_order([[(0, 10, 2.0), (5, 15, 1.0)], [(30, 40, 0.0), (20, 25, 1.0)]]) == [1, 0]


def test_a_look_alike_before_the_cue_before_is_not_taken():
    # The second cue fits a little better at 0, where the first is.
    assert in_order([[(50, 60, -5.0), (0, 9, 0.0)], [(0, 10, -3.0), (100, 110, -2.0)]]) == [0, 1]


def test_overlap_costs_but_is_possible():
    assert in_order([[(0, 100, 0.0)], [(50, 150, -4.0), (120, 200, 0.0)]]) == [0, 0]
    assert in_order([[(0, 100, 0.0)], [(50, 150, -2.0), (120, 200, 0.0)]]) == [0, 1]


def test_cues_that_cannot_be_in_order_are_placed_all_the_same():
    assert in_order([[(50, 60, 0.0)], [(10, 20, 0.0)]]) == [0, 0]

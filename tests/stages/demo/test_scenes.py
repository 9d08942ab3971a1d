"""Captions and scenes say the same, and pictures show it."""

import numpy as np
import pytest

from stages.demo.scenes import COLOURS, RELATIONS, THINGS, Scene, Thing, draw_scene, parse, place

RED_SEVEN, BLUE_TWO, GREEN_FIVE = Thing("red", "seven"), Thing("blue", "two"), Thing("green", "five")


def test_caption_of_three_in_a_row_names_them_from_left_to_right():
    scene = Scene((RED_SEVEN, BLUE_TWO, GREEN_FIVE), "left of")
    assert scene.caption == "a red seven left of a blue two left of a green five"


@pytest.mark.parametrize("relation", RELATIONS)
def test_parsing_a_caption_gives_the_scene_back(relation):
    rng = np.random.default_rng(0)
    for count in (2, 3):
        scene = Scene(
            tuple(THINGS[index] for index in rng.choice(len(THINGS), count, replace=False)), relation
        )
        assert parse(scene.caption) == scene
    assert parse("a red seven") == Scene((RED_SEVEN,))


@pytest.mark.parametrize(
    "sentence", ["", "a red", "a pink seven", "a red seven left of", "a red seven below a blue two"]
)
def test_a_sentence_outside_the_grammar_is_refused(sentence):
    with pytest.raises(ValueError, match="expected a caption"):
        parse(sentence)


@pytest.mark.parametrize(("relation", "axis"), [("left of", 0), ("above", 1)])
@pytest.mark.parametrize("count", [2, 3])
def test_things_follow_one_another_along_the_axis_of_the_relation(relation, axis, count):
    scene = Scene((RED_SEVEN, BLUE_TWO, GREEN_FIVE)[:count], relation)
    for seed in range(50):
        centres, _ = place(scene, np.random.default_rng(seed))
        along, across = centres[:, axis], centres[:, 1 - axis]
        assert np.diff(along).min() > np.ptp(across)


def test_each_colour_is_found_where_its_digit_was_placed():
    scan = np.ones((8, 8))
    scene = Scene((RED_SEVEN, GREEN_FIVE), "left of")
    pixels = np.asarray(draw_scene(scene, [scan, scan], np.random.default_rng(0))).astype(int)
    columns = {}
    for colour in ("red", "green"):
        near = np.abs(pixels - COLOURS[colour]).max(axis=2) < 30
        columns[colour] = np.nonzero(near)[1]
        assert near.sum() > 200
    assert columns["red"].max() < columns["green"].min()

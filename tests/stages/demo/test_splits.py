"""Nothing that is held out for test is ever seen in train."""

import numpy as np
import pytest

from datamodules.preparation.speech import REFERENCE_VOICE
from stages.demo.scenes import COLOURS, DIGITS, THINGS
from stages.demo.splits import make_splits


@pytest.fixture(scope="module")
def splits():
    return make_splits(seed=0)


def test_no_scan_is_in_two_splits_and_none_is_lost(splits):
    scans = {
        name: {scan.tobytes() for digit in split.scans.values() for scan in digit}
        for name, split in splits.items()
    }
    assert sum(map(len, scans.values())) == len(set.union(*scans.values())) == 1797


def test_every_split_has_handwriting_of_every_digit(splits):
    assert all(len(split.scans[digit]) >= 9 for split in splits.values() for digit in DIGITS)


def test_no_variant_of_a_voice_speaks_in_two_splits_and_none_is_the_reference_voice(splits):
    variants = [{voice.split("+")[1] for voice in split.voices} for split in splits.values()]
    assert sum(map(len, variants)) == len(set.union(*variants))
    assert all(REFERENCE_VOICE not in split.voices for split in splits.values())


def test_held_out_combinations_cover_every_digit_and_colour_and_no_other_split_has_them(splits):
    held_out = splits["test"].held_out
    assert {thing.digit for thing in held_out} == set(DIGITS)
    assert {thing.colour for thing in held_out} == set(COLOURS)
    for name in ("train", "val"):
        assert set(splits[name].things) == set(THINGS) - set(held_out)


def test_sampled_scenes_hold_what_their_split_says(splits):
    rng = np.random.default_rng(0)
    for name, split in splits.items():
        for _ in range(300):
            things = split.sample_scene(rng).things
            assert len(set(things)) == len(things) and set(things) <= set(split.things)
            assert bool(set(things) & set(splits["test"].held_out)) == (name == "test")


def test_another_seed_deals_otherwise(splits):
    other = make_splits(seed=1)
    assert other["test"].held_out != splits["test"].held_out
    assert not np.array_equal(other["train"].scans["zero"], splits["train"].scans["zero"])

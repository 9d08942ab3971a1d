"""Pairs of picture and speech: balanced so that neither alone tells, and the same whenever they are made."""

from collections import Counter

import numpy as np
import pytest

from stages.demo.matches import Matches, swap

CAPTIONS = (
    ["a red two"] * 4 + ["a blue six"] * 3 + ["a white one", "a green two", "a red two above a blue six"]
)


@pytest.fixture
def scenes(tmp_path):
    for number, caption in enumerate(CAPTIONS):
        for suffix in ("jpg", "flac"):
            (tmp_path / f"{number:03}.{suffix}").write_bytes(f"{suffix} {number}".encode())
        (tmp_path / f"{number:03}.txt").write_text(caption + "\n")
    (tmp_path / "100.jpg").write_bytes(b"a picture without a word")
    return tmp_path


def test_every_picture_and_every_speech_is_once_matched_and_once_swapped(scenes):
    samples = list(Matches(scenes))
    assert len(samples) == len(Matches(scenes)) == 2 * len(CAPTIONS)
    assert len({sample.key for sample in samples}) == len(samples)
    for suffix in ("jpg", "flac"):
        seen = Counter((sample.members[suffix].stem, sample.members["cls"]) for sample in samples)
        assert set(seen.values()) == {1}
        assert len(seen) == 2 * len(CAPTIONS)


def test_swapped_speech_says_another_caption_and_matched_speech_is_the_pictures_own(scenes):
    for sample in Matches(scenes):
        shown, heard = (CAPTIONS[int(sample.members[suffix].stem)] for suffix in ("jpg", "flac"))
        is_own = sample.members["jpg"].stem == sample.members["flac"].stem
        assert (sample.members["cls"] == b"matched") == is_own == (shown == heard)


def test_pairs_depend_on_the_seed_alone(scenes):
    assert list(Matches(scenes, seed=1)) == list(Matches(scenes, seed=1))
    assert list(Matches(scenes, seed=1)) != list(Matches(scenes, seed=2))


def test_captions_that_cannot_all_be_swapped_are_refused():
    with pytest.raises(ValueError, match="one caption is 3 of 5: expected at most half"):
        swap(["a", "a", "a", "b", "c"], np.random.default_rng(0))
    assert swap([], np.random.default_rng(0)) == []

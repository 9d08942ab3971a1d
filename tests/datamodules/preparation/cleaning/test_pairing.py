"""Filters for samples whose members are no pair."""

import pytest

from datamodules.preparation.cleaning.filter import Reject
from datamodules.preparation.cleaning.pairing import RepeatedText, Require


def test_each_missing_member_has_its_own_reason(sample):
    pair = Require(["image", "text", "json"])
    assert pair.examine(sample(webp=b"", txt=b"", json=b"{}")) is None
    for members, reason in (
        ({"txt": b""}, "no image"),
        ({"jpg": b""}, "no text"),
        ({"png": b"", "txt": b""}, "no json"),
    ):
        with pytest.raises(Reject, match=reason):
            pair.examine(sample(**members))


def judged(chosen, items):
    return [chosen.judge(chosen.examine(item), item.key) for item in items]


def test_a_text_beside_too_many_media_is_rejected_from_there_on(sample):
    items = [
        sample(jpg=bytes([number]), txt=b"Image  unavailable" if number % 2 else b"image UNAVAILABLE")
        for number in range(5)
    ]
    assert judged(RepeatedText(max_media=3), items) == [None] * 3 + ["text repeated beside many media"] * 2


def test_one_medium_may_have_a_text_many_times(sample):
    items = [sample(jpg=b"a", txt=b"a dog")] * 5 + [sample(txt=b"a dog")] * 5
    assert judged(RepeatedText(max_media=1), items) == [None] * 10

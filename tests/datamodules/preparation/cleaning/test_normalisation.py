"""Texts as they come from strangers."""

import pytest

from datamodules.preparation.cleaning.filter import Reject
from datamodules.preparation.cleaning.normalisation import normalise


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xef\xbb\xbfa dog\r\non  grass\n", "a dog on grass"),
        (b"a\x00b\x1b[31m c", "ab[31m c"),
        ("\u202eabc\u200b d\u00e9".encode(), "abc d\u00e9"),
    ],
)
def test_text_is_normalised(data, text):
    assert normalise(data) == text


def test_what_is_not_utf_8_is_rejected():
    with pytest.raises(Reject, match="not UTF-8"):
        normalise(b"caf\xe9")

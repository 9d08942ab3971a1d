"""Filters of text on texts made to fail them."""

import pytest

from datamodules.preparation.cleaning.filter import Reject
from datamodules.preparation.cleaning.texts import EmptyText, FileNameText, TextLength


@pytest.mark.parametrize("text", ["", " ", "...", "—"])
def test_text_without_letter_or_digit_is_rejected(text, sample):
    with pytest.raises(Reject, match="empty text"):
        EmptyText().examine(sample(txt=text.encode()))


def test_text_length_bounds_are_kept(sample):
    bounds = TextLength(min_characters=2, max_characters=4)
    bounds.examine(sample(txt="éé".encode()))
    bounds.examine(sample(jpg=b"no text"))
    with pytest.raises(Reject, match="too short"):
        bounds.examine(sample(txt="é".encode()))
    with pytest.raises(Reject, match="too long"):
        bounds.examine(sample(txt=b"12345"))


def test_words_are_counted_between_white_space(sample):
    bounds = TextLength(min_words=2, max_words=3)
    bounds.examine(sample(txt=b"a dog barks"))
    for text, reason in ((b"dog", "too short"), (b"a dog barks loudly", "too long")):
        with pytest.raises(Reject, match=reason):
            bounds.examine(sample(txt=text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("IMG_20190403_1234", "file name"),
        ("dsc-0042", "file name"),
        ("P1010001.JPG", "file name"),
        ("holiday-on-crete_small.webp", "file name"),
        ("https://example.org/a?b=c", "URL"),
        ("www.example.org/cat", "URL"),
    ],
)
def test_a_text_that_is_a_file_name_or_a_url_is_rejected(text, reason, sample):
    with pytest.raises(Reject, match=f"text is a {reason}"):
        FileNameText().examine(sample(txt=text.encode()))


@pytest.mark.parametrize(
    "text", ["a dog", "see www.example.org", "image of 2 dogs", "IMG_1234.jpg shows a cat", "Photo 51 of DNA"]
)
def test_a_text_that_says_more_passes(text, sample):
    assert FileNameText().examine(sample(txt=text.encode())) is None

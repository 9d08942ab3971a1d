"""The language filter on sentences whose language is known."""

import pytest

from datamodules.preparation.cleaning.filter import Reject
from datamodules.preparation.cleaning.language import Language

ENGLISH = "Two children are playing with a large dog on the beach."
GERMAN = "Zwei Kinder spielen mit einem großen Hund am Strand."
GREEK = "Δύο παιδιά παίζουν με έναν μεγάλο σκύλο στην παραλία."


def test_texts_in_the_languages_pass_and_others_are_rejected(sample):
    chosen = Language(["en", "de"])
    for text in (ENGLISH, GERMAN):
        assert chosen.examine(sample(txt=text.encode())) is None
    with pytest.raises(Reject, match="text in another language"):
        chosen.examine(sample(txt=GREEK.encode()))
    with pytest.raises(Reject, match="text in another language"):
        Language(["en"]).examine(sample(txt=GERMAN.encode()))


def test_a_text_less_probable_than_asked_is_uncertain(sample):
    with pytest.raises(Reject, match="uncertain"):
        Language(["en"], min_probability=0.9999).examine(sample(txt=ENGLISH[:24].encode()))


def test_short_texts_pass_unless_asked_otherwise(sample):
    short = sample(txt=b"Ein Hund.")
    assert Language(["en"]).examine(short) is None
    with pytest.raises(Reject, match="too short to tell"):
        Language(["en"], drop_short=True).examine(short)
    with pytest.raises(Reject, match="another language"):
        Language(["en"], min_characters=5).examine(sample(txt="Das ist ein schöner Hund".encode()))


def test_samples_without_text_pass(sample):
    assert Language(["en"], drop_short=True).examine(sample(jpg=b"")) is None


@pytest.mark.parametrize("languages", [["english"], ["en", "xx"], []])
def test_what_is_no_language_code_is_refused(languages):
    with pytest.raises(ValueError, match=r"Language\.languages"):
        Language(languages)

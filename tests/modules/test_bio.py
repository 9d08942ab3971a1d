"""BIO: what entities tags say, by hand."""

import pytest

from modules.bio import spans, tags_of


def test_each_entity_has_two_tags_behind_outside():
    assert tags_of(["PER", "LOC"]) == ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", []),
        ("", []),
        ("B-A", [("A", 0, 1)]),
        ("B-A I-A O B-A", [("A", 0, 2), ("A", 3, 4)]),
        ("B-A B-A I-A", [("A", 0, 1), ("A", 1, 3)]),
        ("B-A I-B I-B", [("A", 0, 1), ("B", 1, 3)]),
        ("O I-A I-A O", [("A", 1, 3)]),
        ("I-A B-A", [("A", 0, 1), ("A", 1, 2)]),
        ("B-A O I-A", [("A", 0, 1), ("A", 2, 3)]),
        ("B-A-b I-A-b", [("A-b", 0, 2)]),
    ],
)
def test_an_entity_begins_at_b_and_at_an_i_that_follows_no_word_of_its_type(tags, expected):
    assert spans(tags.split()) == expected

"""BIO: tags of words that mark entities, each word being outside of any, the beginning of one, or inside it."""

from collections.abc import Iterable, Sequence

OUTSIDE = "O"
IGNORED = -100
"""Stands in tensors of tags where there is no word; torch's cross-entropy leaves it out by itself."""
Span = tuple[str, int, int]
"""Type of an entity, its first word, and the word after its last."""


def tags_of(entities: Iterable[str]) -> list[str]:
    """Return the tags for types of entities: `O`, then `B-` and `I-` of each."""
    return [OUTSIDE, *(f"{mark}-{entity}" for entity in entities for mark in "BI")]


def spans(tags: Sequence[str]) -> list[Span]:
    """Return the entities that tags say.

    An entity begins at `B-`, and at an `I-` that follows no word of its type: so CoNLL's `conlleval` reads it, and
    seqeval by default.
    """
    found: list[Span] = []
    begin, kind = 0, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        mark, _, entity = tag.partition("-")
        if kind and (mark != "I" or entity != kind):
            found.append((kind, begin, place))
            kind = ""
        if mark != OUTSIDE and not kind:
            begin, kind = place, entity
    return found

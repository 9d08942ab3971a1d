"""Putting together again what was made of each chunk: features over time, sounds, and texts."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal

import numpy as np

Seam = Literal["centre", "fade"]


def merge_steps(chunks: Sequence[np.ndarray], starts: Sequence[int], seam: Seam = "centre") -> np.ndarray:
    """Merge what was computed of overlapping chunks, step by step, into one sequence.

    With `centre`, each neighbour gives its half of the overlap. A model that sees r steps to either side then gives
    the very steps that it gives for the whole, if chunks overlap by at least 2 r: what lies within r of a cut is
    taken from the neighbour. With `fade`, weights go linearly from one to the other over the overlap: for logits and
    features of models that see all of a chunk, where no rule makes the two equal.

    Args:
        chunks: of each chunk an array (steps, …), alike in all but the first dimension; in order.
        starts: the step of the whole at which each chunk begins: `start` of `chunk.json`, divided by the samples in
            a step, which must go without a rest.
        seam: what is done where two chunks overlap.

    Returns:
        The whole (steps, …), of the chunks' dtype.

    Raises:
        ValueError: there is no chunk, or one does not begin within the one before it or at its end, or reaches into
            the next but one.
    """
    ends = [start + len(chunk) for start, chunk in zip(starts, chunks, strict=True)]
    if not chunks:
        raise ValueError("found no chunk to merge; expected at least one")
    for index in range(1, len(chunks)):
        before = ends[index - 2] if index > 1 else starts[0]
        if not max(before, starts[index - 1]) <= starts[index] <= ends[index - 1] <= ends[index]:
            raise ValueError(
                f"chunk {index} covers steps {starts[index]} to {ends[index]} behind one of {starts[index - 1]} to "
                f"{ends[index - 1]}; expected one that begins within it, and behind all earlier ones, and ends later"
            )
    whole = np.concatenate(
        [
            chunks[0],
            *(chunk[end - start :] for chunk, start, end in zip(chunks[1:], starts[1:], ends, strict=False)),
        ]
    )
    for index in range(1, len(chunks)):
        begin, end = starts[index] - starts[0], ends[index - 1] - starts[0]
        left = chunks[index - 1][len(chunks[index - 1]) - (end - begin) :]
        right = chunks[index][: end - begin]
        whole[begin:end] = _seam(left, right, seam)
    return whole


def _seam(left: np.ndarray, right: np.ndarray, seam: Seam) -> np.ndarray:
    """Return an overlap (steps, …) made from what either side has for it."""
    if seam == "centre":
        middle = len(left) // 2
        return np.concatenate([left[:middle], right[middle:]])
    weights = (np.arange(len(left)) + 0.5) / max(1, len(left))
    weights = weights.reshape(-1, *[1] * (left.ndim - 1))
    return ((1 - weights) * left + weights * right).astype(left.dtype)


def merge_text(chunks: Sequence[str], spans: Sequence[tuple[int, int]]) -> str:
    """Return the text that was cut into chunks, by `start` and `end` of each one's `chunk.json`.

    Raises:
        ValueError: a chunk does not fit its span, or the text before it.
    """
    whole = ""
    for chunk, (start, end) in zip(chunks, spans, strict=True):
        start, end = start - spans[0][0], end - spans[0][0]
        whole += " " * (start - len(whole))  # between words: normalised text has no other white space
        if len(chunk) != end - start or whole[start:] != chunk[: len(whole) - start]:
            raise ValueError(
                f"the chunk at characters {start} to {end} does not go on with the text before it"
            )
        whole += chunk[len(whole) - start :]
    return whole


def merge_transcripts(texts: Sequence[str], max_overlap_words: int = 40, min_match_words: int = 2) -> str:
    """Join what was written down of overlapping sounds, the words heard twice only once.

    The longest run of words that the end of one and the beginning of the next have in common, case and punctuation
    aside, is the seam; what either has beyond it, half words at a cut, is left out. Without such a run, both stay.

    Args:
        texts: of each chunk, in order.
        max_overlap_words: at most so many are compared at either side: what is said within the overlap.
        min_match_words: a shorter run is chance, unless it is all that one of the texts has.
    """
    whole: list[str] = []
    for text in texts:
        words = text.split()
        tail, head = whole[-max_overlap_words:], words[:max_overlap_words]
        matcher = SequenceMatcher(None, list(map(_bare, tail)), list(map(_bare, head)), autojunk=False)
        match = matcher.find_longest_match()
        if match.size >= min(min_match_words, len(tail), len(head)) > 0:
            kept = len(whole) - len(tail) + match.a + match.size
            whole, words = whole[:kept], words[match.b + match.size :]
        whole += words
    return " ".join(whole)


def _bare(word: str) -> str:
    return "".join(filter(str.isalnum, word.casefold())) or word

"""TextChunks: long text cut behind sentences, else between words."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from datamodules.preparation.chunks.cutter import Cutter, Piece
from datamodules.preparation.cleaning.filter import Reject
from datamodules.preparation.cleaning.normalisation import normalise
from datamodules.sources.source import Member, read

WORD = re.compile(r"[^\s。！？]*[。！？]+['\"’”)\]」』]*|[^\s。！？]+")
SENTENCE_END = re.compile(r"[.!?…]['\"’”)\]]*$|[。！？]['\"’”)\]」』]*$")
Span = tuple[int, int]


@dataclass
class TextChunks(Cutter):
    """Cuts text behind the last sentence that ends in the second half of what fits, else behind the last word."""

    length: int = 2000
    """The most that a chunk holds, in `count`."""
    overlap: int = 200
    """About how much of a chunk the next one begins with: whole words that together are not longer."""
    count: Literal["characters", "words"] = "characters"
    """What `length` and `overlap` count."""

    suffixes = frozenset({"txt"})
    suffix = "txt"
    unit = "characters"

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= self.length // 2:
            raise ValueError(f"overlap is {self.overlap}; expected 0 to {self.length // 2}, half of length")

    def is_long(self, member: Member) -> bool:
        try:
            text = normalise(read(member))
        except (OSError, Reject):
            return False
        return (len(self.words(text)) if self.count == "words" else len(text)) > self.length

    def cut(self, member: Member) -> Iterator[Piece]:
        """Yield pieces of the normalised text: what is between two that do not overlap is one space, or nothing."""
        text = normalise(read(member))
        for start, end in self.spans(text):
            yield Piece(start, end, text[start:end].encode())

    def spans(self, text: str) -> Iterator[Span]:
        """Yield where each chunk begins and ends."""
        words = self.words(text)
        first = 0
        while True:
            last = first  # the chunk holds words[first : last + 1]
            while last + 1 < len(words) and self.size(words, first, last + 1) <= self.length:
                last += 1
            if last + 1 == len(words):
                yield words[first][0], words[last][1]
                return
            last = self.sentence_end(text, words, first, last)
            yield words[first][0], words[last][1]
            next_first = last + 1
            while next_first - 1 > first and self.size(words, next_first - 1, last) <= self.overlap:
                next_first -= 1
            first = next_first

    def words(self, text: str) -> list[Span]:
        """Return where the words lie; one that alone is too long (Chinese has no spaces) is cut anywhere."""
        found = [match.span() for match in WORD.finditer(text)]
        if self.count == "words":
            return found
        step = max(1, self.overlap or self.length)
        return [
            (place, min(place + step, end)) if end - start > self.length else (start, end)
            for start, end in found
            for place in (range(start, end, step) if end - start > self.length else [start])
        ]

    def size(self, words: list[Span], first: int, last: int) -> int:
        """Return how long the words from `first` to `last` are together."""
        return last - first + 1 if self.count == "words" else words[last][1] - words[first][0]

    def sentence_end(self, text: str, words: list[Span], first: int, last: int) -> int:
        """Return the last word in the second half that ends a sentence, else `last`."""
        half = self.size(words, first, last) / 2
        for word in range(last, first - 1, -1):
            if self.size(words, first, word) < half:
                break
            start, end = words[word]
            if SENTENCE_END.search(text[start:end]):
                return word
        return last

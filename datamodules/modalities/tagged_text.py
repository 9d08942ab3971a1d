"""TaggedText: words with tags, such as those of CoNLL, to token ids and the token that each word begins at."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.target import Target
from datamodules.modalities.text import Text, clean, flattened

IGNORED = -100
"""Behind a row's last word."""
Words = tuple[list[str], list[int]]
"""The words of a text, and for each the index of its tag."""


class TaggedText(Text, Target):
    """Words and tags to what Text makes of the words with spaces between, and what they are tagged as.

    A `.conll` member has a line for each word: the word, a tab, its tag. Inputs are Text's, `tags` (rows, words) int64,
    IGNORED behind a row's last word, and `first_token` (rows, words) int64: the place of the first token that is of the
    word and of no word before it, -1 where there is none, as behind `max_tokens`. The tokenizer may be of any kind:
    words are found by where tokens lie in the text.

    Args:
        tokenizer_json: as Text has it.
        max_tokens: longer texts are cut.
        tags: names, in the order of their indices.
        max_characters: longer texts are cut before they are tokenised.
    """

    members = ("conll",)

    def __init__(
        self, tokenizer_json: str, max_tokens: int, tags: list[str], max_characters: int = 100_000
    ) -> None:
        super().__init__(tokenizer_json, max_tokens, max_characters)
        self.indices = {name: index for index, name in enumerate(tags)}

    def decode(self, data: bytes, member: str) -> Words:  # type: ignore[override]
        """Return words and tags.

        Raises:
            BadSample: when it is not UTF-8 or too long, a line is not a word and a tag, a tag is not one of `tags`, or
                there is no word with something in it.
        """
        if len(data) > 8 * self.max_characters:
            raise BadSample("text_too_long", f"{len(data)} bytes, at most {8 * self.max_characters}")
        try:
            lines = data.decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise BadSample("not_utf8", str(error)) from error
        words, tags = [], []
        for line in filter(None, (line.rstrip("\r") for line in lines)):
            word, tab, tag = line.partition("\t")
            if not tab:
                raise BadSample("tags_layout", f"'{line[:80]}' is not a word, a tab and a tag")
            if tag not in self.indices:
                raise BadSample("unknown_tag", f"'{tag[:80]}' is not one of {', '.join(self.indices)[:200]}")
            words.append(clean(word))
            tags.append(self.indices[tag])
        if not any(words):
            raise BadSample("empty_text")
        return words, tags

    def augment(self, value: Any, rng: np.random.Generator) -> Any:
        return value

    def collate(self, values: list[Words]) -> dict[str, Tensor]:  # type: ignore[override]
        """Tokenise all texts at once, pad to the longest, and find the token of each word."""
        self.tokenizer.encode_special_tokens = True  # here, since pickling for a worker forgets it
        texts = [" ".join(words)[: self.max_characters] for words, _ in values]
        encoded = self.tokenizer.encode_batch(texts)
        kept = [self._kept(each) for each in encoded]
        ids = [[each.ids[p] for p in places] for each, places in zip(encoded, kept, strict=True)]
        inputs = self._padded(*flattened(ids))
        count = max((len(words) for words, _ in values), default=0)
        tags = np.full((len(values), count), IGNORED, dtype=np.int64)
        first = np.full((len(values), count), -1, dtype=np.int64)
        for row, (words, indices) in enumerate(values):
            tags[row, : len(words)] = indices
            first[row, : len(words)] = _first_tokens(words, [encoded[row].offsets[p] for p in kept[row]])
        return {**inputs, "tags": torch.from_numpy(tags), "first_token": torch.from_numpy(first)}


def _first_tokens(words: list[str], offsets: list[tuple[int, int]]) -> list[int]:
    """Return for each word the place of the first token that begins in it or before it and after the word before.

    Args:
        words: with one space between in the text.
        offsets: where each token begins and ends in the text; nowhere (begin = end) for special tokens.
    """
    found, begin, place = [], 0, 0
    for word in words:
        end = begin + len(word)
        while place < len(offsets) and (offsets[place][0] == offsets[place][1] or offsets[place][1] <= begin):
            place += 1
        is_own = bool(word) and place < len(offsets) and offsets[place][0] < end
        found.append(place if is_own else -1)
        place += is_own
        begin = end + 1
    return found

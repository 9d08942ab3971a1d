"""Synonyms of words, from a user's table or from WordNet, for texts that say the same in other words."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

WORD = re.compile(r"[^\W\d_]+")


class Thesaurus(Protocol):
    """Where synonyms come from."""

    def __call__(self, word: str) -> Sequence[str]:
        """Return the synonyms of a word in lower case, itself left out, in an order that never changes."""


class Synonyms:
    """Replaces words by synonyms (EDA, arXiv:1901.11196, section 2), each word by itself with one probability."""

    def __init__(self, thesaurus: Thesaurus) -> None:
        self.thesaurus = thesaurus

    def replace(self, text: str, share: float, rng: np.random.Generator) -> str:
        """Return the text with about `share` of the words that have synonyms replaced; a capital stays one."""

        def other(match: re.Match[str]) -> str:
            word = match.group()
            if rng.random() >= share:
                return word
            known = self.thesaurus(word.lower())
            if not known:
                return word
            chosen = known[int(rng.integers(len(known)))]
            return chosen[0].upper() + chosen[1:] if word[0].isupper() else chosen

        return WORD.sub(other, text)


class Table:
    """Synonyms of a file: TSV lines of a word and its synonyms, or a JSON object of word -> list.

    Raises:
        FileNotFoundError: when it is not there.
        ValueError: when it is neither, or holds no synonym.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"no table of synonyms at {path}: expected a .tsv or .json file, or `wordnet`"
            )
        try:
            content = path.read_text(encoding="utf-8-sig")
            rows = _json_rows(content) if path.suffix == ".json" else _tsv_rows(content)
        except ValueError as error:
            raise ValueError(
                f"{path} is no table of synonyms ({error}): expected lines of a word and its synonyms between "
                "tabs, or a JSON object of word -> list of synonyms"
            ) from error
        self.synonyms: dict[str, list[str]] = {}
        for word, others in rows:
            known = self.synonyms.setdefault(word.lower(), [])
            known += [other for other in others if other and other != word and other not in known]
        if not any(self.synonyms.values()):
            raise ValueError(
                f"{path} holds no synonym: expected lines of a word and its synonyms between tabs"
            )

    def __call__(self, word: str) -> Sequence[str]:
        return self.synonyms.get(word, ())


class WordNet:
    """What WordNet 3.0 calls the most frequent sense of a word, by nltk's reader, which must be installed.

    The other senses are left out: a dog in a picture is no andiron.

    Raises:
        ValueError: when nltk or its corpus `wordnet` is not there; neither is ever downloaded.
    """

    def __init__(self) -> None:
        try:
            from nltk.corpus import wordnet

            wordnet.ensure_loaded()
        except (ImportError, LookupError, OSError) as error:
            raise ValueError(
                "synonyms is `wordnet`, and nltk with its corpus is not there: "
                "pip install 'trivium[augment]', then `python -m nltk.downloader wordnet`, or name a table"
            ) from error
        self.known: dict[str, list[str]] = {}

    def __call__(self, word: str) -> Sequence[str]:
        if word not in self.known:
            from nltk.corpus import wordnet

            # nltk finds `dog` for `dogs` too, whose synonyms would change the grammar.
            names = [synset.lemma_names() for synset in wordnet.synsets(word)]
            senses = [lemmas for lemmas in names if word in map(str.lower, lemmas)]
            first = {lemma.replace("_", " ") for lemma in senses[0]} if senses else set()
            self.known[word] = sorted(lemma for lemma in first if lemma.lower() != word)
        return self.known[word]


def load_synonyms(source: str) -> Synonyms:
    """Return the synonyms of `wordnet`, or of the table at a path.

    Raises:
        FileNotFoundError: when there is no such table.
        ValueError: when it cannot be read, or WordNet is not installed.
    """
    return Synonyms(WordNet() if source == "wordnet" else Table(source))


def _tsv_rows(content: str) -> list[tuple[str, list[str]]]:
    rows = csv.reader(content.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [(row[0].strip(), [word.strip() for word in row[1:]]) for row in rows if row]


def _json_rows(content: str) -> list[tuple[str, list[str]]]:
    table: Any = json.loads(content)
    if not isinstance(table, dict) or not all(
        isinstance(others, list) and all(isinstance(other, str) for other in others)
        for others in table.values()
    ):
        raise ValueError("not an object of lists of words")
    return list(table.items())

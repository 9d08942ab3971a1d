"""Tagged words in CoNLL's columns, with a picture where one is named: CoNLL-2003, Twitter-2015 and Twitter-2017."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.sources.annotations import (
    BadRecord,
    Records,
    check_records,
    estimate_count,
    media_below,
    read_lines,
    require_files,
    samples_of,
)
from datamodules.sources.source import IMAGE_SUFFIXES, Dropped, Note, Sample, Source, key_of, walk

DOCUMENT, PICTURE = "-DOCSTART-", "IMGID:"
PICTURE_ID = re.compile(r"[\w.-]{1,200}")
MAX_WORDS = 10_000
"""Of a sentence."""
MARKS = {"B": "B", "I": "I", "E": "I", "L": "I", "S": "B", "U": "B"}
"""What the marks of BIO, IOBES and BILOU are in BIO."""


@dataclass
class Sentence:
    """Words, their tags in BIO, and the identifier of the picture that goes with them."""

    words: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    picture: str = ""


@dataclass
class Conll(Source):
    """A line per word, `EU NNP I-NP I-ORG`, a blank line between sentences; `IMGID:123` before one names its picture.

    Tags in IOB, BIO, IOBES or BILOU become BIO. A sentence whose picture is not there is a sample without.
    """

    path: Path
    """The folder that the others are relative to."""
    file: Path = Path("train.txt")
    """The words; CoNLL-2003 calls it `eng.train`."""
    images: Path | None = None
    """The folder of pictures, such as `twitter2015_images`; none are looked for without."""
    word: int = 0
    """Column of the words, from 0."""
    tag: int = -1
    """Column of the tags; -1 is the last."""

    def files(self) -> list[Path]:
        words = Path(self.path) / self.file
        return [words, *(walk(Path(self.path) / self.images, IMAGE_SUFFIXES) if self.images else [])]

    def expects(self) -> str:
        return "a line per word with its tag in the last column, and blank lines between sentences"

    def check(self) -> None:
        super().check()
        words = Path(self.path) / self.file
        require_files(file=words)
        if self.images and not (Path(self.path) / self.images).is_dir():
            raise FileNotFoundError(
                f"{Path(self.path) / self.images} is no folder; expected the pictures that `images` names"
            )
        check_records(self.sentences(), words, self.expects())

    def __len__(self) -> int:
        return estimate_count(Path(self.path) / self.file, b"\n\n")

    def __iter__(self) -> Iterator[Sample | Dropped]:
        stem = key_of(str(self.file))

        def written(name: str, sentence: Sentence) -> Iterator[Sample]:
            lines = "".join(
                f"{word}\t{tag}\n" for word, tag in zip(sentence.words, sentence.tags, strict=True)
            )
            members: dict[str, Any] = {"txt": " ".join(sentence.words).encode(), "conll": lines.encode()}
            if picture := self.picture(sentence.picture):
                members[picture.suffix[1:].lower()] = picture
            yield Sample(f"{stem}-{int(name.rpartition(':')[2]):08d}", members, name)

        yield from samples_of(self.sentences(), written)

    def report(self, folder: Path, notes: Sequence[Note] = ()) -> dict:
        """Return the types of entities, sorted, and how many of the pictures that are named are not there."""
        sentences = [found for _, found in self.sentences() if isinstance(found, Sentence)]
        entities = {tag[2:] for sentence in sentences for tag in sentence.tags} - {""}
        named = [sentence.picture for sentence in sentences if sentence.picture and self.images]
        return {
            "entities": sorted(entities),
            "pictures_not_found": sum(self.picture(identifier) is None for identifier in named),
        }

    def picture(self, identifier: str) -> Path | None:
        """Return the file of a picture, if it is there."""
        if not (self.images and identifier):
            return None
        root = (Path(self.path) / self.images).resolve()
        for suffix in ("jpg", "jpeg", "png", "webp"):
            try:
                return media_below(root, f"{identifier}.{suffix}", IMAGE_SUFFIXES, "picture")
            except BadRecord:
                continue
        return None

    def sentences(self) -> Records:
        """Yield each sentence under the name of its first line, or a BadRecord under that of the line at fault."""
        columns = 0  # as many as the first word has
        for block in _blocks(read_lines(Path(self.path) / self.file, keep_blank=True)):
            sentence, at = Sentence(), ""
            try:
                for name, line in block:
                    at = name
                    if isinstance(line, BadRecord):
                        raise line
                    if line.startswith(PICTURE):
                        sentence.picture = _identifier(line)
                        continue
                    fields = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
                    columns = columns or len(fields)
                    word, tag = self._word(fields, columns)
                    sentence.words.append(word)
                    sentence.tags.append(_in_bio(tag, sentence.tags))
                    if len(sentence.words) > MAX_WORDS:
                        raise BadRecord(f"sentence of more than {MAX_WORDS} words")
                if not sentence.words:
                    raise BadRecord("picture without words")
            except BadRecord as error:
                yield at, error
            else:
                yield block[0][0], sentence

    def _word(self, fields: list[str], columns: int) -> tuple[str, str]:
        if len(fields) != columns:
            raise BadRecord("line with another number of columns")
        if not (-columns <= self.tag < columns and 0 <= self.word < columns and columns > 1):
            raise BadRecord("no column of tags")
        word = fields[self.word].strip()
        if not word:
            raise BadRecord("no word")
        return word, fields[self.tag].strip()


def _blocks(lines: Records) -> Iterator[list[tuple[str, Any]]]:
    """Yield the lines of each sentence with their names, that of its picture first; of endless ones not all."""
    block: list[tuple[str, Any]] = []
    for name, line in lines:
        is_picture = isinstance(line, str) and line.startswith(PICTURE)
        is_between = isinstance(line, str) and (not line.strip() or line.startswith(DOCUMENT))
        if block and (is_picture or is_between):
            yield block
            block = []
        if not is_between and len(block) < MAX_WORDS + 2:
            block.append((name, line))
    if block:
        yield block


def _identifier(line: str) -> str:
    identifier = line[len(PICTURE) :].strip()
    if not PICTURE_ID.fullmatch(identifier):
        raise BadRecord("malformed identifier of a picture")
    return identifier


def _in_bio(tag: str, before: Sequence[str]) -> str:
    """Return a tag of any of the usual schemes in BIO, given those before it.

    In IOB an entity begins at `I-` unless one of its type stands right before it.
    """
    if tag == "O":
        return tag
    mark, _, kind = tag.partition("-")
    if mark not in MARKS or not kind:
        raise BadRecord("malformed tag")
    follows = bool(before) and before[-1][2:] == kind
    return f"{MARKS[mark] if follows else 'B'}-{kind}"

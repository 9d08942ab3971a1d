"""Filters by what a text is: none, too short or too long, or the name of a file."""

import re
from dataclasses import dataclass

from datamodules.preparation.cleaning.filter import Filter, Reject
from datamodules.sources.source import Sample

URL = re.compile(r"(https?://|www\.)\S+", re.IGNORECASE)
FILE_NAME = re.compile(
    r"\S+\.(jpe?g|png|gif|webp|bmp|tiff?|heic|svg|pdf|mp[34]|wav|flac|ogg|mov|avi|mkv|webm)"
    r"|(img|dsc|dscn|dscf|dcim|pict|p|mvi|vid|pxl|wp|image|photo|screenshot|untitled)[-_ ]?\d[\d_\- ]*",
    re.IGNORECASE,
)


@dataclass
class EmptyText(Filter):
    """Drop samples whose text holds no letter and no digit."""

    def examine(self, sample: Sample) -> None:
        if "txt" in sample.members and not any(map(str.isalnum, sample.members["txt"].decode())):
            raise Reject("empty text")


@dataclass
class TextLength(Filter):
    """Drop samples whose text is too short or too long, in characters or in words between white space.

    Texts of languages that write no white space, such as Chinese, are one word: count their characters.
    """

    min_characters: int = 1
    """The shortest text that is kept."""
    max_characters: int = 10_000
    """The longest text that is kept."""
    min_words: int = 0
    """The fewest words that are kept."""
    max_words: int | None = None
    """The most words that are kept; no bound by default."""

    def examine(self, sample: Sample) -> None:
        if "txt" not in sample.members:
            return
        text = sample.members["txt"].decode()
        words = len(text.split())
        if len(text) < self.min_characters or words < self.min_words:
            raise Reject("text too short")
        if len(text) > self.max_characters or (self.max_words is not None and words > self.max_words):
            raise Reject("text too long")


@dataclass
class FileNameText(Filter):
    """Drop samples whose whole text is a file name or a URL, which the web often has for a caption."""

    def examine(self, sample: Sample) -> None:
        text = sample.members["txt"].decode().strip() if "txt" in sample.members else ""
        if URL.fullmatch(text):
            raise Reject("text is a URL")
        if FILE_NAME.fullmatch(text):
            raise Reject("text is a file name")

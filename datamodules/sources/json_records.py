"""The records of a large JSON file one after another, so that it need not fit into memory.

The standard library parses each record; this file only finds where the next one begins. (ijson does all of it, but on
a file of nothing but `[` it grows until the machine kills the process.)
"""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

CHUNK_BYTES = 1 << 20
MAX_RECORD_CHARACTERS = 1 << 26
LONGEST_TOKEN = 16
"""A word or a number that ends, or an error, this near to the window's edge may go on behind it."""


class MissingKeyError(ValueError):
    """A JSON file whose object lacks the key that was asked for."""


def read_records(path: Path, key: str | None = None) -> Iterator[Any]:
    """Yield the elements of the list, or the (name, value) pairs of the object, that a JSON file holds.

    Args:
        path: the file, UTF-8. It is read to its end, so whoever saw the last record knows that it is whole.
        key: that of the list or object within the file's own object; None if the file is that itself.

    Raises:
        MissingKeyError: the file has no such key; says which were found.
        ValueError: names the file and the place where it is not JSON.
    """
    with path.open("rb") as file:
        text = _Text(path, file)
        try:
            if key is None:
                yield from text.records()
            else:
                yield from _records_at(text, key, path)
            if found := text.peek():
                text.refuse(f"has {found!r} behind its end")
        except RecursionError:
            raise ValueError(f"{path} is nested too deeply; expected {key or 'a list'} of records.") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 ({error.reason}); expected UTF-8 JSON.") from error


def _records_at(text: "_Text", key: str, path: Path) -> Iterator[Any]:
    names: list[str] = []
    for name in text.names():
        names.append(name)
        is_wanted = name == key and text.peek() in ("[", "{")
        if is_wanted or text.peek() in ("[", "{"):
            for record in text.records():
                if is_wanted:
                    yield record
        else:
            text.value()
    if key not in names:
        raise MissingKeyError(
            f"{path} holds no `{key}`; found {', '.join(names)[:300] or 'nothing'}. Check that it is the right file."
        )


class _Text:
    """A window over the text of a file; `at` is where the next thing begins in it."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.window, self.at, self.passed, self.is_whole = "", 0, 0, False
        self.utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self.scan = json.JSONDecoder().raw_decode

    def read_on(self) -> bool:
        """Widen the window, to twice what is unread, and return whether there was more."""
        if self.is_whole:
            return False
        unread = self.window[self.at :]
        if len(unread) > MAX_RECORD_CHARACTERS:
            self.refuse(f"has a record of more than {MAX_RECORD_CHARACTERS} characters")
        data = self.file.read(max(CHUNK_BYTES, len(unread)))
        self.is_whole = not data
        self.passed += self.at
        self.window, self.at = unread + self.utf8.decode(data, final=not data), 0
        return True

    def refuse(self, problem: str) -> None:
        raise ValueError(
            f"{self.path} {problem} at character {self.passed + self.at}; expected JSON. Is it whole?"
        )

    def peek(self) -> str:
        """Return the next character that is no space, or nothing at the end."""
        while True:
            while self.at < len(self.window):
                if not self.window[self.at].isspace():
                    return self.window[self.at]
                self.at += 1
            if not self.read_on():
                return ""

    def take(self, expected: str) -> str:
        """Return the next character, which must be one of `expected`."""
        found = self.peek()
        if not found or found not in expected:
            self.refuse(f"has {found!r} instead of {' or '.join(expected)}" if found else "ends")
        self.at += 1
        return found

    def value(self) -> Any:
        """Return the next value."""
        self.peek()
        while True:
            try:
                value, end = self.scan(self.window, self.at)
                if end < len(self.window) - LONGEST_TOKEN or not self.read_on():
                    self.at = end
                    return value
            except json.JSONDecodeError as error:
                goes_on = "Unterminated" in error.msg or error.pos >= len(self.window) - LONGEST_TOKEN
                if not goes_on or not self.read_on():
                    self.at = error.pos
                    self.refuse(f"cannot be read ({error.msg})")
            except ValueError as error:  # a number with thousands of digits
                self.refuse(f"cannot be read ({error})")

    def records(self) -> Iterator[Any]:
        """Yield the elements of the list, or the pairs of the object, that comes next."""
        if self.peek() == "{":
            for name in self.names():
                yield name, self.value()
            return
        self.take("[")
        if self.peek() == "]":
            self.at += 1
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return

    def names(self) -> Iterator[str]:
        """Yield the names in the object that comes next; the value behind each must be read before the next one."""
        self.take("{")
        if self.peek() == "}":
            self.at += 1
            return
        while True:
            if self.peek() != '"':
                self.take('"')
            name = self.value()
            self.take(":")
            yield name
            if self.take(",}") == "}":
                return

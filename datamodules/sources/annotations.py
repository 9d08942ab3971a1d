"""Annotation files read with limits: lines, rows of CSV, JSON lines, and the paths of media that they name.

Readers stream and yield `(name, record)`, where the record is a BadRecord if that one cannot be used: a stray quote, a
line that is no JSON or no UTF-8 costs its own record and no other.
"""

import csv
import gzip
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from datamodules.sources.source import Dropped, Sample

MAX_LINE_BYTES = 1 << 24
ESTIMATE_BYTES = 1 << 20
MAX_QUOTED_LINES = 8
"""A quoted field of CSV may run over this many lines; then its quote is taken for a stray one."""
MAX_EXPANSION = 200
"""Compressed text that unpacks to more than this many times its size is an attack; real text reaches 20."""
FREE_BYTES = 1 << 26
"""What a compressed file may unpack to whatever its size."""


class BadRecord(ValueError):
    """A record that breaks the layout; its message is the reason under which it is counted."""


Records = Iterator[tuple[str, Any]]


def samples_of(
    records: Iterable[tuple[str, Any]], make: Callable[[str, Any], Iterable[Sample | Dropped]]
) -> Iterator[Sample | Dropped]:
    """Yield what `make(name, record)` yields of each record, and a Dropped for each one that is bad."""
    for name, record in records:
        try:
            if isinstance(record, BadRecord):
                raise record
            yield from make(name, record)
        except BadRecord as error:
            yield Dropped(name, str(error))


def read_lines(path: Path, keep_blank: bool = False) -> Records:
    """Yield the lines of a UTF-8 file without their ends, blank ones if asked for; `.gz` is unpacked on the way."""
    is_packed = path.suffix == ".gz"
    limit = path.stat().st_size * MAX_EXPANSION + FREE_BYTES
    with gzip.open(path, "rb") if is_packed else path.open("rb") as file:
        try:
            for number, line in enumerate(_raw_lines(file), start=1):
                if is_packed and file.tell() > limit:
                    raise EOFError
                if line is None:
                    yield f"{path.name}:{number}", BadRecord("line too long")
                elif keep_blank or line.strip(b"\xef\xbb\xbf \t\r\n"):
                    yield f"{path.name}:{number}", _text_of(line)
        except (OSError, EOFError, zlib.error):  # cut or damaged; gzip does not name the file
            yield path.name, BadRecord("rest of the file cannot be read")


def _raw_lines(file: BinaryIO | gzip.GzipFile) -> Iterator[bytes | None]:
    """Yield each line, or None for one that is too long."""
    while line := file.readline(MAX_LINE_BYTES):
        rest = line
        while len(rest) == MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest, line = file.readline(MAX_LINE_BYTES), None
        yield line


def _text_of(line: bytes) -> str | BadRecord:
    try:
        return line.decode("utf-8").removeprefix("\ufeff").rstrip("\r\n")
    except UnicodeDecodeError:
        return BadRecord("line is not UTF-8")


def read_json_lines(path: Path) -> Records:
    """Yield the objects of a file with one JSON object per line."""
    for name, line in read_lines(path):
        yield name, line if isinstance(line, BadRecord) else _object_of(line)


def _object_of(line: str) -> dict | BadRecord:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return BadRecord("line is not JSON")
    return record if isinstance(record, dict) else BadRecord("line is not a JSON object")


def read_rows(
    path: Path, columns: Sequence[str], has_header: bool = True, delimiter: str = ",", comment: str = ""
) -> Records:
    """Yield the rows of a CSV file as column -> value, both without the spaces around them.

    Args:
        path: the file, UTF-8.
        columns: those that must be there; without a header, all of them in order.
        has_header: whether the first row names the columns.
        delimiter: between fields.
        comment: lines that begin so are left out.

    Raises:
        ValueError: the header lacks one of `columns`, or there is none.
    """
    lines = (
        (name, line)
        for name, line in read_lines(path)
        if not (comment and isinstance(line, str) and line.startswith(comment))
    )
    rows = _parsed(lines, delimiter)
    names = list(columns)
    if has_header:
        _, header = next(rows, ("", None))
        found = [] if header is None or isinstance(header, BadRecord) else [field.strip() for field in header]
        if missing := [column for column in columns if column not in found]:
            raise ValueError(
                f"{path} lacks the columns {', '.join(missing)}; found {', '.join(found)[:300] or 'no header'}. "
                "Expected the file as it is published, with its header."
            )
        names = found
    for name, row in rows:
        if isinstance(row, BadRecord):
            yield name, row
        elif len(row) != len(names):
            yield name, BadRecord("row with another number of fields")
        else:
            yield name, dict(zip(names, map(str.strip, row), strict=True))


def _parsed(lines: Records, delimiter: str) -> Iterator[tuple[str, list[str] | BadRecord]]:
    waiting: deque[tuple[str, str | BadRecord]] = deque()
    for name, line in _with_waiting(waiting, lines):
        taken = [(name, line)]
        row = _fields(line, delimiter)
        while row is None:  # a quoted field goes on in the next line, or never ends
            following = next(_with_waiting(waiting, lines), None)
            taken += [following] if following else []
            if not following or isinstance(following[1], BadRecord) or len(taken) > MAX_QUOTED_LINES:
                waiting.extendleft(reversed(taken[1:]))
                row = BadRecord("quote without an end")
            else:
                row = _fields("\n".join(text for _, text in taken), delimiter)
        yield name, row


def _fields(text: str | BadRecord, delimiter: str) -> list[str] | BadRecord | None:
    """Return the fields of a row, or None if a quoted one is still open."""
    if isinstance(text, BadRecord):
        return text
    if '"' not in text and len(text) <= csv.field_size_limit():
        return text.split(delimiter)  # what csv does, in a third of the time
    try:
        return next(csv.reader([text], delimiter=delimiter, skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        return None if "unexpected end" in str(error) else BadRecord("malformed row")


def _with_waiting(waiting: deque, lines: Records) -> Records:
    """Yield what waits first, then the lines; what is put back meanwhile comes next."""
    while True:
        line = waiting.popleft() if waiting else next(lines, None)
        if line is None:
            return
        yield line


def estimate_count(path: Path, mark: bytes = b"\n") -> int:
    """Return about how often `mark` occurs in a file, judged by its first megabyte; for a progress bar."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            start = file.read(ESTIMATE_BYTES)
        except (OSError, EOFError, zlib.error):
            return 0
        packed_bytes = file.fileobj.tell() if isinstance(file, gzip.GzipFile) else len(start)
    return round(start.count(mark) * max(1.0, path.stat().st_size / max(1, packed_bytes)))


def check_records(records: Records, path: Path, expected: str) -> None:
    """Refuse an annotation file whose first thousand records are all bad, or that has none.

    Raises:
        ValueError: names the file, what was found and what was expected.
    """
    reasons = []
    for _, record in islice(records, 1000):
        if not isinstance(record, BadRecord):
            return
        reasons.append(str(record))
    found = f"nothing but bad ones, the first: {reasons[0]}" if reasons else "none"
    raise ValueError(
        f"{path} should hold {expected}; found {found}. Check that it is the right file, and whole."
    )


def require_files(**named: Path) -> None:
    """Refuse a source one of whose annotation files is missing.

    Raises:
        FileNotFoundError: names the file and the argument that led to it.
    """
    for argument, path in named.items():
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is not there; expected the annotation file that `{argument}` names. "
                "Download it, or say where it lies; it is relative to `path`."
            )


def media_below(root: Path, given: object, suffixes: frozenset[str], what: str) -> Path:
    """Return the file that a record names, which must lie below `root`, a resolved folder.

    Raises:
        BadRecord: it is no path, leads out of `root`, is not there, or is no such medium.
    """
    if not isinstance(given, str):
        raise BadRecord(f"{what} is not a path")
    if "://" in given or given.startswith("data:"):
        raise BadRecord(f"{what} is a URL")
    try:
        file = (root / given).resolve()
        is_below = file.is_relative_to(root)
        is_there = is_below and file.suffix[1:].lower() in suffixes and file.is_file()
    except (OSError, ValueError) as error:  # a name too long, or with characters that no file name has
        raise BadRecord(f"{what} not found") from error
    if not is_below:
        raise BadRecord(f"{what} lies outside its folder")
    if not is_there:
        raise BadRecord(f"{what} not found")
    return file


def text_of(record: Mapping[str, Any], field: str) -> str:
    """Return a field that must be text with something in it.

    Raises:
        BadRecord: it is missing, blank or no text.
    """
    return checked_text(record.get(field) if isinstance(record, Mapping) else None, field)


def checked_text(value: object, what: str) -> str:
    """Return a value that must be text with something in it.

    Raises:
        BadRecord: it is blank or no text.
    """
    if not isinstance(value, str) or not value.strip():
        raise BadRecord(f"no {what}")
    return value


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Return metadata as a `.json` member; what JSON cannot hold, such as a date, becomes text."""
    return json.dumps(content, ensure_ascii=False, default=str).encode("utf-8", "replace")

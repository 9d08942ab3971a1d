"""Which shards a path names: those of a folder, a tar, a glob or brace pattern, a list in a file, or URLs."""

import glob
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from datamodules.shards.errors import ShardError

SCHEMES = frozenset({"http", "https", "s3", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory"})
"""Of URLs that are read through fsspec. Nothing that runs a command or opens what lies inside another file."""
MAX_SHARDS = 1_000_000
MAX_LIST_BYTES = 64 << 20
LISTS = (".json", ".txt", ".list")
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):")
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?\d+)?\}")


def find_shards(paths: str | Path | Iterable[str | Path]) -> list[Path | str]:
    """Return the tars that paths name, in order: `Path` for files, `str` for URLs.

    Args:
        paths: one or more of: a folder; a tar; a glob or brace pattern (`shards/{000..099}.tar`); a file that lists
            these, one a line (`.txt`, `.list`) or as JSON, relative to its own folder; a URL of a tar or with braces.

    Raises:
        FileNotFoundError: when one names no shard.
        ShardError: when one is of a kind that is not read, such as `pipe:`, or names more than a million shards.
    """
    found: list[Path | str] = []
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        found += _find(str(path))
        if len(found) > MAX_SHARDS:
            raise ShardError(f"{path} names more than {MAX_SHARDS} shards: expected fewer and larger ones")
    return found


def is_url(path: str | Path) -> bool:
    """Tell whether a path is a URL.

    Raises:
        ShardError: when it is one of a kind that is not read.
    """
    match = _SCHEME.match(str(path)) if isinstance(path, str) else None
    if match is None:
        return False
    if match[1].lower() not in SCHEMES or "://" not in str(path) or "::" in str(path):
        raise ShardError(
            f"'{str(path)[:200]}' is not a plain URL: expected a path, or one of {', '.join(sorted(SCHEMES))} "
            "(nothing is run, nothing inside other files is opened); write ./NAME where a file's name has a colon"
        )
    return True


def _find(path: str, in_list: bool = False) -> list[Path | str]:
    if path.startswith("file://"):
        path = path[len("file://") :]
    if is_url(path):
        return list(_expand(path))
    place = Path(path)
    if place.is_dir():
        tars = sorted(place.glob("*.tar"))
    elif place.suffix in LISTS and place.is_file():
        if in_list:
            raise ShardError(f"{path} is a list named by another list: expected shards")
        return [shard for entry in _read_list(place) for shard in _find(entry, in_list=True)]
    elif place.is_file():
        tars = [place]
    else:
        # Of the names that a brace pattern gives, each must be there; of a glob, any.
        tars = []
        for name in _expand(path):
            some = [Path(name)] if Path(name).is_file() else [Path(p) for p in sorted(glob.glob(name))]
            if not some and name != path:
                raise FileNotFoundError(f"{name} is not there, one of {path}: copy the shards whole")
            tars += some
    if not tars:
        what = "holds no .tar" if place.exists() else "is not there"
        raise FileNotFoundError(
            f"{path} {what}: expected a folder of shards; make it with `python -m stages.prepare`"
        )
    return list(tars)


def _expand(pattern: str) -> Iterator[str]:
    """Expand braces as a shell does.

    Raises:
        ShardError: when there would be too many names.
    """
    from braceexpand import braceexpand

    if "{" not in pattern:
        return iter([pattern])
    count = math.prod(abs(int(last) - int(first)) + 1 for first, last in _RANGE.findall(pattern))
    if count > MAX_SHARDS:
        raise ShardError(f"{pattern} names {count} shards: expected at most {MAX_SHARDS}")
    try:
        return itertools.islice(braceexpand(pattern), MAX_SHARDS + 1)
    except ValueError:  # braces that do not match stand for themselves
        return iter([pattern])


def _read_list(path: Path) -> list[str]:
    """Return the entries of a list of shards, relative paths from its own folder."""
    if path.stat().st_size > MAX_LIST_BYTES:
        raise ShardError(f"{path} is larger than {MAX_LIST_BYTES} bytes: expected a list of shards")
    try:
        text = path.read_text(encoding="utf-8")
        entries = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path} is not readable as a list of shards ({error})") from error
    if not isinstance(entries, list) or not all(
        isinstance(entry, str) and "\0" not in entry for entry in entries
    ):
        raise ShardError(f'{path} is no list of shards: expected JSON such as ["000.tar", "001.tar"]')
    entries = [entry.strip() for entry in entries]
    named = [entry for entry in entries if entry and not entry.startswith("#")]
    if not named:
        raise FileNotFoundError(f"{path} lists no shard")
    return [entry if _SCHEME.match(entry) else str(path.parent / entry) for entry in named]

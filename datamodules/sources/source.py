"""What every source is: a folder or file of the user's, iterated as samples and as what had to be dropped."""

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.shards.names import is_safe

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp"})
SOUND_SUFFIXES = frozenset({"flac", "wav", "mp3", "ogg"})


@dataclass(frozen=True)
class Slice:
    """A piece of a file, such as a member of a tar, that is read late, in a worker process."""

    path: Path
    offset: int
    size: int


Member = bytes | Path | Slice


def read(member: Member, limit: int = -1) -> bytes:
    """Return the bytes of a member, of many no more than `limit`; by default all.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(member, Path):
        with member.open("rb") as file:
            return file.read(limit)
    if isinstance(member, Slice):
        with member.path.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size if limit < 0 else min(limit, member.size))
    return member if limit < 0 else member[:limit]


@dataclass(frozen=True)
class Sample:
    """One sample: its key in the shards, its members, and the name by which the user knows it."""

    key: str
    members: Mapping[str, Member]
    """Suffix to bytes, or to a file or a piece of one that is read late, in a worker process."""
    name: str


@dataclass(frozen=True)
class Dropped:
    """A sample that does not go into the shards, and why."""

    name: str
    reason: str
    sample: Sample | None = None
    """What it was, as far as it was made; the report shows some."""
    twin: str | None = None
    """Key of the sample that it resembles, where that is the reason."""


@dataclass(frozen=True)
class Note:
    """What a source found while it made samples, for its part of the manifest: plain values, as JSON holds them."""

    kind: str
    content: Mapping[str, Any]


class Source(ABC):
    """Where samples come from. A source is iterated once per run, in the same order every time.

    A layout of your own is one dataclass: give `path`, `files` and `__iter__`, and name the class in the config.
    What costs time (decoding, aligning) goes into `expand`, which runs in worker processes.
    """

    path: Path

    @abstractmethod
    def files(self) -> list[Path]:
        """Return every file that the samples are made from, sorted; cheap, and without opening media."""

    @abstractmethod
    def __iter__(self) -> Iterator[Sample | Dropped]:
        """Yield what samples are made from, cheaply, and a Dropped for each one that cannot be made."""

    def expand(self, sample: Sample) -> Iterator[Sample | Dropped | Note]:
        """Make the samples proper of one that was iterated; runs in a worker process, knowing nothing of the others."""
        yield sample

    def __len__(self) -> int:
        """Return about how many samples there are, for the progress bar."""
        return len(self.files())

    def report(self, folder: Path, notes: Sequence[Note] = ()) -> dict:
        """Return this source's entries of the manifest at the end; may write files into `folder`.

        Args:
            folder: of the set, not yet under its final name.
            notes: what `expand` noted, in the order of the samples.
        """
        return {}

    def check(self) -> None:
        """Refuse a source with nothing in it before any work is done.

        Raises:
            FileNotFoundError: `path` does not exist, or holds no file of this layout.
        """
        if not Path(self.path).exists():
            raise FileNotFoundError(
                f"{self.path} does not exist; expected the data of a {type(self).__name__}. Check `path`."
            )
        if not self.files():
            raise FileNotFoundError(
                f"found nothing to prepare in {self.path}; expected {self.expects()}. Check `path` and the layout."
            )

    def expects(self) -> str:
        """Say in a few words what the layout looks like, for the message of an empty source."""
        return f"the layout of a {type(self).__name__}"

    def fingerprint(self) -> str:
        """Return a sha256 over names, sizes and modification times of the files: it changes when they do."""
        digest, root = hashlib.sha256(), str(self.root()) + os.sep
        for file in map(str, self.files()):
            stat = os.stat(file)
            digest.update(f"{file.removeprefix(root)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def root(self) -> Path:
        """Return the folder that the files' names are relative to."""
        return Path(self.path) if Path(self.path).is_dir() else Path(self.path).parent


def walk(folder: Path | str, suffixes: frozenset[str]) -> list[Path]:
    """Return the files below `folder` with one of `suffixes` (lower case, no dot), sorted; hidden ones are left out."""
    found, folders = [], [str(Path(folder))]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif os.path.splitext(entry.name)[1][1:].lower() in suffixes and entry.is_file():
                        found.append(entry.path)
        except OSError:
            continue  # not there, or not ours to read
    found.sort(
        key=lambda file: file.replace(os.sep, "\0")
    )  # as paths sort, folder by folder, but in a tenth of the time
    return [Path(file) for file in found]


def with_own(
    known: Mapping[str, frozenset[str]], own: Mapping[str, Sequence[str]], taken: str = ""
) -> dict[str, frozenset[str]]:
    """Return suffixes by kind of medium, those of a user's own modalities added to the known ones.

    Args:
        known: suffixes by kind.
        own: more of them.
        taken: a suffix under which the source itself writes a member.

    Raises:
        ValueError: one of `own` could not stand in a shard, or belongs to two kinds.
    """
    kinds = {
        **known,
        **{kind: known.get(kind, frozenset()) | set(suffixes) for kind, suffixes in own.items()},
    }
    owners = {taken: "the source itself"}
    for kind, suffixes in kinds.items():
        for suffix in sorted(suffixes):
            if "." in suffix or not is_safe(suffix):
                raise ValueError(
                    f"suffixes.{kind} names '{suffix}', which cannot stand in a shard: expected lower case, without a "
                    "dot, and nothing that is unpickled or unpacked when it is read (npy, pt, gz, …)"
                )
            if owners.setdefault(suffix, kind) != kind:
                raise ValueError(
                    f"suffixes.{kind} names '{suffix}', which is of {owners[suffix]}: expected one kind for each suffix"
                )
    return kinds


def key_of(name: str) -> str:
    """Return `name` as a key of a shard: letters, digits, `_` and `-`; folders are joined by `-`."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name.replace("/", "-"))


def shortened(key: str, max_characters: int = 128) -> str:
    """Return a key that file systems and tars take; where it is longer, its end becomes a hash of all of it."""
    if len(key) <= max_characters:
        return key
    return f"{key[: max_characters - 17]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"

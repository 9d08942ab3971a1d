"""Filters that keep bad samples out of shards, each with a reason under which `prepare` counts what it drops.

A filter works in two halves. `examine` looks at one sample alone, so it runs in worker processes, and raises Reject or
returns a finding. `judge` is given the findings one after another in the order of the samples, in the main process, so
it may remember what came before. Most filters need the first half only; duplicates need both. A set that is prepared
in two goes is judged anew from its findings: what `judge` remembers may come from nothing else.
"""

import hashlib
import unicodedata
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from pathlib import Path

from datamodules.preparation.decodable import UndecodableError, check_image, check_sound
from datamodules.sources.source import IMAGE_SUFFIXES, SOUND_SUFFIXES, Member, Sample, Slice


class Reject(Exception):
    """Raised by `examine` to drop a sample; its message is the reason, a few words that are the same for all alike."""


@dataclass(frozen=True)
class Rejected:
    """Why `judge` drops a sample, and the key of the earlier sample that it resembles."""

    reason: str
    twin: str


class Filter:
    """One reason, or a few, to drop a sample. Subclasses are dataclasses and give `examine`, `judge` or both."""

    def examine(self, sample: Sample) -> Hashable:
        """Look at one loaded sample alone and return what `judge` needs: None, bytes, text, numbers, or tuples of them.

        Raises:
            Reject: the sample is to be dropped.
        """
        return None

    def judge(self, finding: Hashable, key: str) -> str | Rejected | None:
        """Return the reason to drop the sample with this finding, or None to keep it. Called in order.

        Args:
            finding: what `examine` returned.
            key: under which the sample stands in the shards if it is kept.
        """
        return None


@dataclass
class Undecodable(Filter):
    """Drop samples whose image or sound cannot be decoded whole, or is beyond what a loader should be given."""

    max_pixels: int = 50_000_000
    """Images with more pixels are dropped, unopened: a few kilobytes can claim gigabytes."""
    max_aspect: float = 20.0
    """Images whose longer side exceeds the shorter by more are dropped: a resize would make them huge."""
    min_seconds: float = 0.01
    """Sounds shorter than this are dropped."""
    max_seconds: float = 3600.0
    """Sounds longer than this are dropped, without decoding the rest."""

    def examine(self, sample: Sample) -> None:
        try:
            for suffix, data in sample.members.items():
                if suffix in IMAGE_SUFFIXES:
                    check_image(data, self.max_pixels, self.max_aspect)
                elif suffix in SOUND_SUFFIXES:
                    check_sound(data, self.min_seconds, self.max_seconds)
        except UndecodableError as error:
            raise Reject(str(error)) from error


@dataclass
class EmptyText(Filter):
    """Drop samples whose text holds no letter and no digit."""

    def examine(self, sample: Sample) -> None:
        if "txt" in sample.members and not any(map(str.isalnum, sample.members["txt"].decode())):
            raise Reject("empty text")


@dataclass
class TextLength(Filter):
    """Drop samples whose text is too short or too long, in characters."""

    min_characters: int = 1
    """The shortest text that is kept."""
    max_characters: int = 10_000
    """The longest text that is kept."""

    def examine(self, sample: Sample) -> None:
        length = len(sample.members["txt"].decode()) if "txt" in sample.members else None
        if length is not None and length < self.min_characters:
            raise Reject("text too short")
        if length is not None and length > self.max_characters:
            raise Reject("text too long")


@dataclass
class ExactDuplicates(Filter):
    """Drop samples whose members are all byte for byte those of an earlier sample."""

    seen: dict[bytes, str] = field(default_factory=dict, init=False, repr=False)

    def examine(self, sample: Sample) -> bytes:
        digest = hashlib.sha256()
        for suffix, data in sorted(sample.members.items()):
            digest.update(f"{suffix} {len(data)} ".encode())
            digest.update(data)
        return digest.digest()

    def judge(self, finding: bytes, key: str) -> Rejected | None:
        twin = self.seen.setdefault(finding, key)
        return None if twin == key else Rejected("exact duplicate", twin)


def load(sample: Sample) -> Sample:
    """Return the sample with its members as bytes: files read, text normalised.

    Raises:
        Reject: a file cannot be read, or its text is not UTF-8.
    """
    try:
        members = {suffix: read(member) for suffix, member in sample.members.items()}
    except OSError as error:
        raise Reject("unreadable file") from error
    if "txt" in members:
        members["txt"] = normalise(members["txt"]).encode()
    return replace(sample, members=members)


def read(member: Member) -> bytes:
    """Return the bytes of a member."""
    if isinstance(member, Path):
        return member.read_bytes()
    if isinstance(member, Slice):
        with member.path.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)
    return member


def normalise(data: bytes) -> str:
    """Return UTF-8 text without byte-order mark, control and format characters, each run of white space as one space.

    Raises:
        Reject: the bytes are not UTF-8.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Reject("text is not UTF-8") from error
    if not text.isascii() or not text.isprintable():
        text = "".join(
            character
            for character in text
            if character.isspace() or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
        )
    return " ".join(text.split())

"""Members of a sample in a worker process: refused where they may not stand in a shard, loaded, or left out."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from datamodules.preparation.cleaning.filter import Reject
from datamodules.preparation.cleaning.normalisation import normalise
from datamodules.shards.names import is_safe
from datamodules.shards.scan import MAX_MEMBER_BYTES
from datamodules.sources.source import Member, Sample, Slice, read

MAX_SHOWN_BYTES = 1 << 20


def check_members(sample: Sample) -> None:
    """Refuse what cannot stand in a shard, before it is read.

    Raises:
        Reject: there is no member, or one whose name could stand for code or a path, or one that is too large.
    """
    if not sample.members:
        raise Reject("no member")
    for suffix, member in sample.members.items():
        if not is_safe(suffix):
            raise Reject("unsafe member")
        if size_of(member) > MAX_MEMBER_BYTES:
            raise Reject("member too large")


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


def size_of(member: Member) -> int:
    """Return the size of a member in bytes; 0 where a file is missing, which reading it will tell."""
    if isinstance(member, Path):
        with suppress(OSError):
            return member.stat().st_size
        return 0
    return member.size if isinstance(member, Slice) else len(member)


def small(sample: Sample) -> Sample:
    """Return the sample with those of its members that together are small enough to be shown."""
    members: dict[str, Member] = {}
    room = MAX_SHOWN_BYTES
    for suffix, member in sample.members.items():
        if size_of(member) <= room:
            with suppress(OSError):
                members[suffix] = read(member)
                room -= size_of(member)
    return replace(sample, members=members)

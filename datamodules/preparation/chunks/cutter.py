"""Cutter: what cuts one kind of member into pieces that overlap."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

from datamodules.sources.source import Member


class Piece(NamedTuple):
    """A piece of a member and where it lies in it, in the cutter's unit, the end not included."""

    start: int
    end: int
    data: bytes


class Cutter(ABC):
    """Cuts one kind of member. Subclasses are dataclasses."""

    suffixes: frozenset[str]
    """Of the members that it cuts."""
    suffix: str
    """Of the pieces."""
    unit: str
    """Of `start` and `end`, such as characters."""

    @abstractmethod
    def is_long(self, member: Member) -> bool:
        """Return whether it has to be cut; what cannot be read is not long: a filter will say what it is."""

    @abstractmethod
    def cut(self, member: Member) -> "Iterator[Piece]":
        """Yield the pieces of a long member, in order, each but the first beginning before the one before it ends.

        Raises:
            Reject: it cannot be read.
        """

    def scale(self, member: Member) -> dict[str, Any]:
        """Return what else a reader needs to know to place a piece, such as the sampling rate."""
        return {}

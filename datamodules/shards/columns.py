"""Index: the samples of one tar in columns, a few bytes each, so that a million of them load at once."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

COLUMNS = {
    "kinds": np.int32,
    "offsets": np.int64,
    "sizes": np.int64,
    "key_bytes": np.uint8,
    "key_ends": np.int64,
}
MAX_NAMES = 1000


@dataclass
class LeftOut:
    """What was left out for one reason: how many, and the names of the first of them."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.names) < MAX_NAMES:
            self.names.append(name)


@dataclass(frozen=True)
class Index:
    """Samples of one tar, in columns.

    Args:
        kinds: (samples,), which of `kind_members` each sample is.
        offsets: (members,), bytes from the tar's start to each member; those of one sample stand together.
        sizes: (members,), bytes.
        key_bytes: the keys of all samples in UTF-8, one behind the other.
        key_ends: (samples,), where each key ends in them.
        kind_members: the distinct sets of members: extensions in the order in which they lie in the tar.
        left_out: reason -> what of the tar is no part of any sample.
        tar_bytes: size of the tar.
        lost: how many samples were left out, as far as can be known.
        is_unreadable: whether the whole shard was left out.
    """

    kinds: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    key_bytes: np.ndarray
    key_ends: np.ndarray
    kind_members: list[tuple[str, ...]]
    tar_bytes: int
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    lost: int = 0
    is_unreadable: bool = False

    def __len__(self) -> int:
        return len(self.kinds)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "numbers"}

    @cached_property
    def starts(self) -> np.ndarray:
        """(samples + 1,): where the members of each sample begin in `offsets` and `sizes`."""
        counts = np.array([len(members) for members in self.kind_members], dtype=np.int64)[self.kinds]
        return np.concatenate([[0], np.cumsum(counts)])

    @property
    def keys(self) -> list[str]:
        """The keys of all samples."""
        return [self.key(place) for place in range(len(self))]

    def key(self, place: int) -> str:
        start = self.key_ends[place - 1] if place else 0
        return self.key_bytes[start : self.key_ends[place]].tobytes().decode("utf-8", "replace")

    def members(self, place: int) -> tuple[str, ...]:
        """Return the extensions of a sample's members."""
        return self.kind_members[self.kinds[place]]

    @cached_property
    def numbers(self) -> tuple[memoryview, memoryview, memoryview, memoryview]:
        """`kinds`, `starts`, `offsets` and `sizes` as plain numbers, several times faster to take one by one."""
        return self.kinds.data, self.starts.data, self.offsets.data, self.sizes.data

    def find(self, place: int, extension: str) -> tuple[int, int]:
        """Return offset and size of a member, in bytes.

        Raises:
            KeyError: when the sample has no such member.
        """
        members = self.members(place)
        if extension not in members:
            raise KeyError(
                f"sample '{self.key(place)}' has no member .{extension}, but .{', .'.join(members)}"
            )
        _, starts, offsets, sizes = self.numbers
        row = starts[place] + members.index(extension)
        return offsets[row], sizes[row]

"""The offset index beside a shard (`000000.tar.index`): which bytes of the tar are which member of which sample."""

import json
import mmap
import os
import secrets
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.shards.shard_error import ShardError
from datamodules.shards.tar import BrokenTar, members

VERSION = 1
MAX_MEMBER_BYTES = 1 << 28
MAX_NAMES = 20  # of the skipped, per reason
PICKLED = frozenset({"pkl", "pickle", "pyd", "pth", "pt", "joblib", "dill"})
COMPRESSED = frozenset({"gz", "tgz", "bz2", "xz", "zst", "lz4", "zip"})
ARRAYS = {"key_ends": "<i8", "first": "<i8", "kind": "<i4", "offset": "<i8", "size": "<i8"}


@dataclass(frozen=True)
class ShardIndex:
    """Samples of one shard, their members in compressed rows: sample i owns members first[i] to first[i + 1]."""

    kinds: list[str]
    """Names of the member kinds in lower case: jpg, txt, …"""
    keys: bytes
    """All keys, UTF-8, one after the other."""
    key_ends: np.ndarray
    """(samples,): where each key ends in `keys`."""
    first: np.ndarray
    """(samples + 1,): each sample's first member."""
    kind: np.ndarray
    """(members,): index into `kinds`."""
    offset: np.ndarray
    """(members,): first byte in the tar."""
    size: np.ndarray
    """(members,): bytes."""
    skipped: dict[str, list[str]] = field(default_factory=dict)
    """What is left out: reason → the first names; the counts are in `skipped_counts`."""
    skipped_counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.key_ends)

    def key(self, sample: int) -> str:
        """Return the key of a sample."""
        start = self.key_ends[sample - 1] if sample else 0
        return self.keys[start : self.key_ends[sample]].decode()

    def members(self, sample: int) -> dict[str, tuple[int, int]]:
        """Return kind → (offset, size) of one sample."""
        rows = slice(self.first[sample], self.first[sample + 1])
        spans = zip(self.offset[rows].tolist(), self.size[rows].tolist(), strict=True)
        return dict(zip((self.kinds[kind] for kind in self.kind[rows]), spans, strict=True))

    def has_any(self, kinds: frozenset[str]) -> np.ndarray:
        """Return (samples,) bool: which samples have a member of one of `kinds`."""
        wanted = np.array([kind in kinds for kind in self.kinds], dtype=bool)
        owner = np.repeat(np.arange(len(self)), np.diff(self.first))
        return np.bincount(owner[wanted[self.kind]], minlength=len(self)) > 0


def load_index(tar_path: str | Path) -> ShardIndex:
    """Return the index of a shard; make it where it is missing or the tar has changed since.

    Raises:
        ShardError: the tar is missing or being written.
    """
    tar_path = Path(tar_path)
    try:
        return _read(index_path(tar_path), stamp=_stamp(tar_path))
    except (OSError, ValueError, KeyError, TypeError):
        return build_index(tar_path)


def build_index(tar_path: str | Path) -> ShardIndex:
    """Walk the tar, write its index beside it (atomically; where the folder allows) and return it.

    A broken tar gives the samples before the break; what is left out is in `skipped`.

    Raises:
        ShardError: the tar is missing or being written.
    """
    tar_path = Path(tar_path)
    stamp = _stamp(tar_path)
    index = _walk(tar_path)
    if _stamp(tar_path) != stamp:
        raise ShardError(f"{tar_path} changed while it was indexed; wait until it is written, then start again.")
    try:
        _write(index, index_path(tar_path), stamp)
    except PermissionError:
        pass  # a read-only place: the walk is repeated at each start
    except OSError as error:
        if error.errno != 30:  # EROFS
            raise
    return index


def index_path(tar_path: Path) -> Path:
    """Return where the index of a shard lies."""
    return tar_path.with_name(tar_path.name + ".index")

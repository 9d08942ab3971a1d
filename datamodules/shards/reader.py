"""ShardReader: any sample of a set of shards by its position, from memory-mapped tars."""

import bisect
import json
import math
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.shards.cache import ShardCache
from datamodules.shards.columns import MAX_NAMES, Index, LeftOut
from datamodules.shards.errors import ShardError
from datamodules.shards.index import read_index
from datamodules.shards.paths import find_shards

MAX_OPEN_SHARDS = 256
"""Shards that a process keeps mapped at once; each costs a file descriptor, of which 1024 is a usual limit."""


class ShardReader:
    """Samples of folders of shards, single tars, patterns, lists or URLs, as one sequence.

    It may be sent to worker processes: each opens the files for itself, when it first reads them.

    Args:
        paths: what `find_shards` takes.
        cache: where shards of URLs are kept.

    Attributes:
        tars: the shards, in order.
        indices: one for each.
        ends: position behind the last sample of each shard.
        path_ends: the same of each of `paths`.
        kinds: the distinct sets of members of all samples, as extensions.
        kind_of: (samples,), which of them each sample is.

    Raises:
        FileNotFoundError: when a path holds no shard.
        ShardError: when a shard is missing, or its count disagrees with its manifest, or a URL has no cache.
    """

    def __init__(self, paths: str | Path | Iterable[str | Path], cache: ShardCache | None = None) -> None:
        given: list[str | Path] = [paths] if isinstance(paths, (str, Path)) else list(paths)
        found = [find_shards(path) for path in given]
        for path in map(Path, given):
            if path.is_dir():
                _check_complete(path)
        self.tars = [tar for tars in found for tar in tars]
        self.cache = cache
        self.indices = _checked_indices(self.tars, cache)
        self.ends = np.cumsum([len(index) for index in self.indices]).tolist()
        last = np.cumsum([len(tars) for tars in found])
        self.path_ends = [self.ends[shard - 1] if shard else 0 for shard in last]
        self.kinds, self.kind_of = _joined_kinds(self.indices)
        self._maps: dict[int, mmap.mmap] = {}

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def locate(self, position: int) -> tuple[int, int]:
        """Return shard and place in it of a position."""
        shard = bisect.bisect_right(self.ends, position)
        return shard, position - (self.ends[shard - 1] if shard else 0)

    def key(self, position: int) -> str:
        shard, place = self.locate(position)
        return self.indices[shard].key(place)

    def extensions(self, position: int) -> tuple[str, ...]:
        """Return the extensions of a sample's members."""
        return self.kinds[self.kind_of[position]]

    def read(self, position: int, extension: str) -> bytes:
        """Return one member of a sample.

        Raises:
            KeyError: when the sample has no such member.
            ShardError: when the shard has been cut meanwhile.
        """
        shard, place = self.locate(position)
        offset, size = self.indices[shard].find(place, extension)
        return self._map(shard)[offset : offset + size]

    def sample(self, position: int) -> dict[str, bytes]:
        """Return all members of a sample by extension.

        Raises:
            ShardError: when the shard has been cut meanwhile.
        """
        shard, place = self.locate(position)
        tar, index = self._map(shard), self.indices[shard]
        kinds, starts, offsets, sizes = index.numbers
        row, found = starts[place], {}
        for extension in index.kind_members[kinds[place]]:
            offset = offsets[row]
            found[extension] = tar[offset : offset + sizes[row]]
            row += 1
        return found

    def sizes(self, extension_of_kind: Sequence[str | None]) -> np.ndarray:
        """Return the bytes of one member of each sample, (samples,) int64; 0 where a kind names none.

        Args:
            extension_of_kind: for each of `kinds` the member meant.
        """
        wanted = dict(zip(self.kinds, extension_of_kind, strict=True))
        found = []
        for index in filter(len, self.indices):
            slots = [
                members.index(wanted[members] or "") if wanted[members] else -1
                for members in index.kind_members
            ]
            slot = np.array(slots, dtype=np.int64)[index.kinds]
            rows = np.minimum(index.starts[:-1] + np.maximum(slot, 0), len(index.sizes) - 1)
            found.append(np.where(slot >= 0, index.sizes[rows], 0))
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def left_out(self) -> dict[str, LeftOut]:
        """Return reason -> what the indices leave out."""
        joined: dict[str, LeftOut] = {}
        for index in self.indices:
            for reason, found in index.left_out.items():
                out = joined.setdefault(reason, LeftOut())
                out.count += found.count
                out.names += found.names[: MAX_NAMES - len(out.names)]
        return joined

    @property
    def lost(self) -> int:
        """How many samples the indices leave out; a shard that is no tar counts as much as the others do on average."""
        readable = [len(index) + index.lost for index in self.indices if not index.is_unreadable]
        average = math.ceil(sum(readable) / len(readable)) if readable else 1
        return sum(average if index.is_unreadable else index.lost for index in self.indices)

    def _map(self, shard: int) -> mmap.mmap:
        mapped = self._maps.get(shard)
        if mapped is None:
            if len(self._maps) >= MAX_OPEN_SHARDS:
                self._maps.pop(next(iter(self._maps))).close()  # the one that was opened first
            tar = self.tars[shard]
            with open(_needed(self.cache, tar).fetch(tar) if isinstance(tar, str) else tar, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if len(mapped) < self.indices[shard].tar_bytes:
                raise ShardError(f"{tar} was cut after it was indexed: copy it again")
            self._maps[shard] = mapped
        return mapped


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return a folder's manifest, an empty one where there is none.

    Raises:
        ShardError: when it is not readable.
    """
    path = Path(folder, "manifest.json")
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ShardError(f"{path} is not readable as JSON ({error}): prepare the set again") from error


def _check_complete(folder: Path) -> None:
    named = [shard["name"] for shard in read_manifest(folder).get("shards", ())]
    missing = [name for name in named if not (folder / name).is_file()]
    if missing:
        raise ShardError(
            f"{folder} lacks {len(missing)} of the {len(named)} shards that its manifest names, "
            f"the first {missing[0]}: copy it whole, or prepare it again"
        )


def _checked_indices(tars: Iterable[Path | str], cache: ShardCache | None) -> list[Index]:
    """Return the index of each shard, its count compared with the manifest beside it."""
    manifests: dict[Path, dict[str, dict[str, Any]]] = {}
    indices = []
    for tar in tars:
        if isinstance(tar, str):
            indices.append(_needed(cache, tar).index(tar))
            continue
        if tar.parent not in manifests:
            shards = read_manifest(tar.parent).get("shards", ())
            manifests[tar.parent] = {shard["name"]: shard for shard in shards}
        said = manifests[tar.parent].get(tar.name, {})
        index = read_index(tar, said.get("sha256"))
        count = said.get("samples", len(index))
        if count != len(index) and not index.is_unreadable:
            reasons = ", ".join(f"{reason}: {out.count}" for reason, out in index.left_out.items())
            raise ShardError(
                f"{tar} holds {len(index)} samples, its manifest says {count} ({reasons or 'no reason found'}): "
                "it was changed; prepare it again"
            )
        indices.append(index)
    return indices


def _joined_kinds(indices: Iterable[Index]) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """Return the kinds of all shards, and which of them each sample is."""
    numbers: dict[tuple[str, ...], int] = {}
    kind_of = [
        np.array([numbers.setdefault(members, len(numbers)) for members in index.kind_members], np.int32)[
            index.kinds
        ]
        for index in indices
        if len(index)
    ]
    return list(numbers), np.concatenate(kind_of) if kind_of else np.empty(0, np.int32)


def _needed(cache: ShardCache | None, url: str) -> ShardCache:
    if cache is None:
        raise ShardError(f"{url} is a URL, and there is no folder to keep its shards in: say `cache_dir`")
    return cache

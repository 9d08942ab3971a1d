"""ShardReader: any sample of a set of shards by its position, from memory-mapped tars."""

import bisect
import glob
import itertools
import json
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datamodules.shards.errors import ShardError
from datamodules.shards.index import Index, read_index

MAX_OPEN_SHARDS = 256
"""Shards that a process keeps mapped at once; each costs a file descriptor, of which 1024 is a usual limit."""


class ShardReader:
    """Samples of folders of shards, single tars or patterns, as one sequence.

    It may be sent to worker processes: each opens the files for itself, when it first reads them.

    Args:
        paths: folders (with or without `manifest.json`), tars, or glob patterns of tars.

    Raises:
        FileNotFoundError: when a path holds no shard.
        ShardError: when a shard is broken or missing, or its count disagrees with the manifest.
    """

    def __init__(self, paths: str | Path | Iterable[str | Path]) -> None:
        given = [paths] if isinstance(paths, (str, Path)) else list(paths)
        self.tars = [tar for path in given for tar in find_shards(Path(path))]
        for path in map(Path, given):
            if path.is_dir():
                _check_complete(path)
        self.indices = _checked_indices(self.tars)
        self.ends = list(itertools.accumulate(len(index) for index in self.indices))
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
        return self.indices[shard].keys[place]

    def extensions(self, position: int) -> Iterable[str]:
        """Return the extensions of a sample's members."""
        shard, place = self.locate(position)
        return self.indices[shard].members[place].keys()

    def read(self, position: int, extension: str) -> bytes:
        """Return one member of a sample."""
        shard, place = self.locate(position)
        offset, size = self.indices[shard].members[place][extension]
        return self._map(shard)[offset : offset + size]

    def sample(self, position: int) -> dict[str, bytes]:
        """Return all members of a sample by extension."""
        return {extension: self.read(position, extension) for extension in self.extensions(position)}

    def left_out(self) -> dict[str, list[str]]:
        """Return reason -> names of the members that the indices leave out."""
        names: dict[str, list[str]] = {}
        for index in self.indices:
            for reason, found in index.problems.items():
                names.setdefault(reason, []).extend(found)
        return names

    def _map(self, shard: int) -> mmap.mmap:
        if shard not in self._maps:
            if len(self._maps) >= MAX_OPEN_SHARDS:
                self._maps.pop(next(iter(self._maps))).close()  # the one that was opened first
            with open(self.tars[shard], "rb") as file:
                self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[shard]


def find_shards(path: Path) -> list[Path]:
    """Return the tars that a folder, a tar or a glob pattern names, in order.

    Raises:
        FileNotFoundError: when there are none.
    """
    if path.is_dir():
        tars = sorted(path.glob("*.tar"))
    elif path.is_file():
        tars = [path]
    else:
        tars = [Path(found) for found in sorted(glob.glob(str(path)))]
    if not tars:
        what = "holds no .tar" if path.exists() else "is not there"
        raise FileNotFoundError(
            f"{path} {what}: expected a folder of shards; make it with `python -m stages.prepare`"
        )
    return tars


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


def _checked_indices(tars: Iterable[Path]) -> list[Index]:
    """Return the index of each shard, its count compared with the manifest beside it."""
    expected: dict[Path, dict[str, int]] = {}
    indices = []
    for tar in tars:
        if tar.parent not in expected:
            shards = read_manifest(tar.parent).get("shards", ())
            expected[tar.parent] = {shard["name"]: shard["samples"] for shard in shards}
        index = read_index(tar)
        count = expected[tar.parent].get(tar.name, len(index))
        if count != len(index):
            reasons = ", ".join(f"{reason}: {len(names)}" for reason, names in index.problems.items())
            raise ShardError(
                f"{tar} holds {len(index)} samples, its manifest says {count} ({reasons or 'no reason found'}): "
                "it was changed; prepare it again"
            )
        indices.append(index)
    return indices

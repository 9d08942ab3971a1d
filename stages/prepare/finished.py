"""A finished set as its folder tells it: manifest, examples, alignment, and the samples that duplicates resemble."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.preparation.exhibits.exhibits import FILE, Exhibits, exhibit
from datamodules.shards.errors import ShardError
from datamodules.shards.reader import ShardReader, find_shards, read_manifest
from datamodules.sources.source import Sample
from stages.prepare.alignment import Alignment, read_alignment


@dataclass(frozen=True)
class Finished:
    """One set of shards, with what its report shows."""

    name: str
    manifest: Mapping[str, Any]
    exhibits: Exhibits = field(default_factory=Exhibits)
    twins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Key -> exhibit of a kept sample that a dropped one resembles; without those that were not found."""
    alignment: Alignment = field(default_factory=Alignment)
    """How subtitles were aligned; empty where there were none."""
    seconds: float | None = None
    """How long it took to make, where it was made just now."""
    problems: tuple[str, ...] = ()
    """What could not be read of what is only shown."""

    @property
    def kept(self) -> int:
        """The number of samples in the shards."""
        return self.manifest["samples"]

    @property
    def dropped(self) -> int:
        """The number of samples that are not."""
        return sum(self.manifest["dropped"].values())

    @property
    def num_bytes(self) -> int:
        """The size of all shards."""
        return sum(shard["bytes"] for shard in self.manifest["shards"])


def read(folder: Path, seconds: float | None = None) -> Finished:
    """Return what the folder of a finished set tells; examples that are not there, or damaged, are left out and noted.

    Raises:
        FileNotFoundError: there is no manifest.json.
        ShardError: it cannot be read.
    """
    manifest = read_manifest(folder)
    if not manifest:
        raise FileNotFoundError(f"{folder} has no manifest.json; expected a finished set. Prepare it first.")
    problems: list[str] = []
    exhibits, alignment = Exhibits(), Alignment()
    try:
        if (folder / FILE).is_file():
            exhibits = Exhibits.from_plain(read_json(folder / FILE))
    except (OSError, ValueError) as error:
        problems.append(f"{FILE}: {error}")
    try:
        if (folder / "alignment.json").is_file():
            alignment = read_alignment(read_json(folder / "alignment.json"))
    except (OSError, ValueError) as error:
        problems.append(f"alignment.json: {error}")
    shown = [one for chosen in exhibits.dropped.values() for _, one in chosen.ranked]
    wanted = {one["twin"] for one in shown if one.get("twin")}
    twins: dict[str, dict[str, Any]] = {}
    try:
        twins = read_twins(folder, wanted)
    except (OSError, ShardError) as error:
        problems.append(f"shards: {error}")
    return Finished(folder.name, manifest, exhibits, twins, alignment, seconds, tuple(problems))


def read_twins(folder: Path, keys: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the exhibits of samples in the shards by key, opening no more shards than it takes to find them."""
    found: dict[str, dict[str, Any]] = {}
    for tar in find_shards(folder):
        missing = set(keys) - found.keys()
        if not missing:
            break
        reader = ShardReader(tar)
        for position in range(len(reader)):
            if (key := reader.key(position)) in missing:
                found[key] = exhibit(Sample(key, reader.sample(position), key))
    return found


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError, ValueError: it cannot be read, or is no JSON.
    """
    return json.loads(path.read_text(encoding="utf-8"))

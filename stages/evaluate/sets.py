"""Sets of shards beyond batches: what their manifest says, and the raw members of some samples."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from datamodules.modalities.build import Modality
from datamodules.shards.reader import ShardReader, read_manifest


def read_entry(folder: Path, entry: str) -> Any:
    """Return one entry of a set's manifest.

    Raises:
        ValueError: when the set has no manifest, a damaged one, or one without the entry.
    """
    manifest = read_manifest(folder)
    if not manifest.get(entry):
        found = f"its manifest.json has {', '.join(manifest)}" if manifest else "it has no manifest.json"
        raise ValueError(
            f"{folder} does not say its '{entry}' ({found}): prepare it from a layout that has them"
        )
    return manifest[entry]


def read_samples(folder: Path, keys: Collection[str]) -> dict[str, dict[str, bytes]]:
    """Return all raw members (suffix -> bytes) of the samples with these keys."""
    reader = ShardReader(folder)
    return {key: reader.sample(position) for position, key in _keys(reader) if key in keys}


def read_contents(folder: Path, modalities: Mapping[str, Modality]) -> dict[str, dict[str, int]]:
    """Return a number for what each sample has of each modality: modality -> key -> equal where the bytes are equal."""
    reader = ShardReader(folder)
    contents: dict[str, dict[str, int]] = {name: {} for name in modalities}
    for position, key in _keys(reader):
        extensions = reader.extensions(position)
        for name, modality in modalities.items():
            member = next((member for member in modality.members if member in extensions), None)
            if member is not None:
                digest = hashlib.sha256(reader.read(position, member)).digest()
                contents[name][key] = int.from_bytes(digest[:8], "little", signed=True)
    return contents


def read_members(folder: Path, suffix: str) -> dict[str, bytes]:
    """Return one raw member of every sample that has it, by key."""
    reader = ShardReader(folder)
    return {
        key: reader.read(position, suffix)
        for position, key in _keys(reader)
        if suffix in reader.extensions(position)
    }


def _keys(reader: ShardReader) -> Iterator[tuple[int, str]]:
    return ((position, reader.key(position)) for position in range(len(reader)))

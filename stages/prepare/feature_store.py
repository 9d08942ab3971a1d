"""FeatureStore: features by the hash of the media they were made of, in a folder that outlives a set of shards."""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from datamodules.modalities.features import read_header

MAX_INDEX_BYTES = 1 << 28


class FeatureStore:
    """Features of one encoder in one variant, by sha256 of the media.

    What was made for one shard is one file with an index beside it, both written whole or not at all: a run that is
    killed and started again finds all of a shard's features or none, so it encodes the same batches.

    Args:
        folder: of the store; None keeps nothing.
        encoder: fingerprint of the part.
        variant: what else the features depend on, such as the format of the numbers; part of a folder's name.
    """

    def __init__(self, folder: Path | None, encoder: str, variant: str) -> None:
        self.encoder = encoder
        self.folder = None if folder is None else Path(folder) / f"{encoder}-{variant}"
        self.places: dict[str, tuple[Path, int, int]] = {}
        if self.folder is not None:
            for index in sorted(self.folder.glob("*.json")):
                self._read_index(index)

    def get(self, digest: str) -> bytes | None:
        """Return the features of media with this sha256; None where there are none, or damaged ones."""
        if digest not in self.places:
            return None
        path, offset, size = self.places[digest]
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(size)
            return data if read_header(data).encoder == self.encoder else None
        except (OSError, ValueError):
            return None

    def add(self, features: Mapping[str, bytes]) -> None:
        """Keep features by the sha256 of their media."""
        if self.folder is None or not features:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        content = b"".join(features.values())
        name = hashlib.sha256(content).hexdigest()[:32]
        places, offset = {}, 0
        for digest, data in features.items():
            places[digest] = [offset, len(data)]
            offset += len(data)
        self._write(self.folder / f"{name}.features", content)
        index = self.folder / f"{name}.json"  # last: features without an index are not found
        self._write(index, json.dumps(places).encode())
        self._read_index(index)

    def _read_index(self, index: Path) -> None:
        """Note where features lie; an index that is damaged is one that is not there."""
        try:
            if index.stat().st_size > MAX_INDEX_BYTES:
                return
            for digest, (offset, size) in json.loads(index.read_bytes()).items():
                self.places[digest] = (index.with_suffix(".features"), int(offset), int(size))
        except (OSError, ValueError, TypeError, AttributeError):
            return

    def _write(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

"""Inspecting shards: what is in them, what is damaged, and how large media are; from indices and headers."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.pictures import read_size
from datamodules.modalities.sounds import open_sound
from datamodules.shards.cache import ShardCache
from datamodules.shards.columns import LeftOut
from datamodules.shards.reader import ShardReader, read_manifest

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")
SOUNDS = ("flac", "wav", "mp3", "ogg")
MAX_NAME_CHARACTERS = 300


@dataclass(frozen=True)
class Spread:
    """How a number is spread: how many there are, their sum, and where they lie."""

    count: int
    total: float
    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> "Spread":
        """Raises ValueError when there is no value."""
        found = np.asarray(values, np.float64)
        return cls(
            len(found), found.sum().item(), found.min().item(), np.median(found).item(), found.max().item()
        )


@dataclass(frozen=True)
class Inspection:
    """What is in a set of shards.

    Args:
        shards: tars.
        bytes: of all tars.
        samples: that are whole and can be delivered.
        lost: samples that are left out, as far as can be known.
        kinds: how many samples have which members, as `jpg txt`, the most frequent first.
        members: bytes of the members by extension.
        left_out: reason -> what is left out.
        manifests: what the manifest of each folder says, without its list of shards.
        examined: samples whose media headers were read.
        image_pixels: of the examined images by extension: `width` and `height`.
        sound_s: of the examined sounds by extension: seconds.
        unreadable: members whose headers say nothing, as far as examined.
    """

    shards: int
    bytes: int
    samples: int
    lost: int
    kinds: dict[str, int]
    members: dict[str, Spread]
    left_out: dict[str, LeftOut]
    manifests: dict[str, dict[str, Any]]
    examined: int = 0
    image_pixels: dict[str, dict[str, Spread]] = field(default_factory=dict)
    sound_s: dict[str, Spread] = field(default_factory=dict)
    unreadable: LeftOut = field(default_factory=LeftOut)


def inspect_shards(
    paths: str | Path | Iterable[str | Path], *, max_examined: int = 1000, cache: ShardCache | None = None
) -> Inspection:
    """Tell what is in shards, good or bad.

    Args:
        paths: what `find_shards` takes.
        max_examined: samples, spread evenly over the shards, whose media headers are read; nothing is decoded.
        cache: where shards of URLs are kept.

    Raises:
        FileNotFoundError: when a path holds no shard.
        ShardError: when a shard is missing, or its count disagrees with its manifest.
    """
    reader = ShardReader(paths, cache)
    counts = np.bincount(reader.kind_of, minlength=len(reader.kinds))
    kinds: Counter[str] = Counter()
    for kind, count in zip(reader.kinds, counts.tolist(), strict=True):
        kinds[" ".join(sorted(kind))] += count
    extensions = sorted({extension for kind in reader.kinds for extension in kind})
    step = max(1, -(-len(reader) // max(1, max_examined)))
    positions = range(0, len(reader), step) if max_examined > 0 else range(0)
    pixels, seconds, unreadable = _examine(reader, positions)
    folders = dict.fromkeys(tar.parent for tar in reader.tars if isinstance(tar, Path))
    said = {str(folder): read_manifest(folder) for folder in folders}
    return Inspection(
        shards=len(reader.tars),
        bytes=sum(index.tar_bytes for index in reader.indices),
        samples=len(reader),
        lost=reader.lost,
        kinds=dict(kinds.most_common()),
        members={extension: Spread.of(_sizes(reader, extension)) for extension in extensions},
        left_out=reader.left_out(),
        manifests={
            folder: {name: value for name, value in manifest.items() if name != "shards"}
            for folder, manifest in said.items()
            if manifest
        },
        examined=len(positions),
        image_pixels={
            extension: {"width": Spread.of([w for w, _ in sizes]), "height": Spread.of([h for _, h in sizes])}
            for extension, sizes in sorted(pixels.items())
        },
        sound_s={extension: Spread.of(found) for extension, found in sorted(seconds.items())},
        unreadable=unreadable,
    )


def _sizes(reader: ShardReader, extension: str) -> np.ndarray:
    sizes = reader.sizes([extension if extension in kind else None for kind in reader.kinds])
    has = np.array([extension in kind for kind in reader.kinds], dtype=bool)
    return sizes[has[reader.kind_of]]


def _examine(
    reader: ShardReader, positions: Iterable[int]
) -> tuple[dict[str, list[tuple[int, int]]], dict[str, list[float]], LeftOut]:
    pixels: dict[str, list[tuple[int, int]]] = {}
    seconds: dict[str, list[float]] = {}
    unreadable = LeftOut()
    for position, extension in _media(reader, positions):
        try:
            if extension in IMAGES:
                pixels.setdefault(extension, []).append(read_size(reader.read(position, extension)))
            else:
                seconds.setdefault(extension, []).append(sound_seconds(reader.read(position, extension)))
        except BadSample as bad:
            unreadable.add(f"{reader.key(position)}.{extension}: {bad}"[:MAX_NAME_CHARACTERS])
    return (
        {extension: found for extension, found in pixels.items() if found},
        {extension: found for extension, found in seconds.items() if found},
        unreadable,
    )


def _media(reader: ShardReader, positions: Iterable[int]) -> Iterator[tuple[int, str]]:
    for position in positions:
        for extension in reader.extensions(position):
            if extension in IMAGES or extension in SOUNDS:
                yield position, extension


def sound_seconds(data: bytes) -> float:
    """Return the duration that a sound's header says.

    Raises:
        BadSample: it is no sound.
    """
    with open_sound(data) as sound:
        return sound.frames / sound.samplerate

"""What is in shards: samples, members, sizes, durations, problems."""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from datamodules.shards.index import read_index
from datamodules.shards.reader import ShardReader, find_shards

SOUNDS = frozenset({"flac", "wav", "mp3", "ogg"})
IMAGES = frozenset({"jpg", "jpeg", "png", "webp"})
NAMES_SHOWN = 20


def inspect_shards(paths: str | Path | Iterable[str | Path], max_media: int = 1000) -> dict[str, Any]:
    """Return what is in shards.

    Args:
        paths: folders, tars or patterns, as ShardReader takes them.
        max_media: sounds and images that are opened, evenly spread, for durations and sizes; all members are counted.

    Returns:
        `shards` and `samples` (counts), `bytes`, `members` (by extension: count, and min, median and max of the
        bytes), `combinations` (of extensions, how many samples have them), `problems` (reason -> count and first
        names), `sounds_s` and `pixels` (min, median, max; None where none was opened), `unreadable` (by extension).

    Raises:
        FileNotFoundError: a path holds no shard.
        ShardError: a shard is broken, missing, or disagrees with its manifest.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    reader = ShardReader(given)
    tars = [tar for path in given for tar in find_shards(Path(path))]
    sizes: dict[str, list[int]] = {}
    combinations: Counter[str] = Counter()
    media: list[tuple[int, str]] = []
    position = 0
    for tar in tars:
        for members in read_index(tar).members:
            combinations[" ".join(sorted(members))] += 1
            for extension, (_, size) in members.items():
                sizes.setdefault(extension, []).append(size)
                if extension in SOUNDS | IMAGES:
                    media.append((position, extension))
            position += 1
    durations_s, pixels, unreadable = _opened(reader, media[:: max(1, -(-len(media) // max(1, max_media)))])
    return {
        "shards": len(tars),
        "samples": len(reader),
        "bytes": sum(tar.stat().st_size for tar in tars),
        "members": {
            extension: {"count": len(found), **spread(found)} for extension, found in sorted(sizes.items())
        },
        "combinations": dict(combinations.most_common()),
        "problems": {
            reason: {"count": len(names), "names": names[:NAMES_SHOWN]}
            for reason, names in reader.left_out().items()
        },
        "sounds_s": spread(durations_s) if durations_s else None,
        "pixels": spread(pixels) if pixels else None,
        "unreadable": dict(unreadable),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the smallest, the middle and the largest of some values."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def _opened(reader: ShardReader, media: list[tuple[int, str]]) -> tuple[list[float], list[int], Counter[str]]:
    """Return durations in seconds, sizes in pixels, and how many could not be read, from headers alone."""
    import soundfile
    from PIL import Image

    durations_s, pixels, unreadable = [], [], Counter[str]()
    for position, extension in media:
        data = io.BytesIO(reader.read(position, extension))
        try:
            if extension in SOUNDS:
                with soundfile.SoundFile(data) as sound:
                    durations_s.append(round(sound.frames / sound.samplerate, 3))
            else:
                with Image.open(data, formats=("JPEG", "PNG", "WEBP")) as image:
                    pixels.append(image.width * image.height)
        except Exception:  # headers of strangers' files raise anything; here they are only counted
            unreadable[extension] += 1
    return durations_s, pixels, unreadable

"""One set of shards: from a source through filters to a folder of tars, manifest and index that appears when whole."""

import json
import os
import shutil
import signal
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import count, islice
from pathlib import Path

from datamodules.preparation.cleaning import EmptyText, Filter, Reject, Rejected, Undecodable, load
from datamodules.sources.source import Dropped, Note, Sample, Source

VERSION = 1
CHUNK_SAMPLES = 32
CHUNKS_AHEAD = 8
NAMES_KEPT = 20

_sets: dict[str, "SampleSet"] = {}  # in a worker process: every set, by its name
Examined = tuple[Sample | Dropped | Note, list[Hashable]]


@dataclass
class SampleSet:
    """What one set of shards is made from."""

    source: Source
    """The layout of the raw data, by class path; `datamodules/sources/` has one file per layout."""
    filters: list[Filter] | None = None
    """Filters in order; by default those for undecodable media and for empty texts."""
    max_samples: int = 1000
    """The most samples in one shard."""

    def __post_init__(self) -> None:
        if self.filters is None:
            self.filters = [Undecodable(), EmptyText()]

    def description(self) -> dict:
        """Return what the set is made from as plain values: equal descriptions make equal shards."""
        return {
            "version": VERSION,
            "source": describe(self.source),
            "files": self.source.fingerprint(),
            "filters": [describe(chosen) for chosen in self.filters],
            "max_samples": self.max_samples,
        }


@dataclass
class Tally:
    """What became of a source's samples."""

    kept: int = 0
    members: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_names: dict[str, list[str]] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    def keep(self, sample: Sample) -> None:
        """Count a sample that goes into the shards."""
        self.kept += 1
        self.members.update(sample.members.keys())

    def drop(self, dropped: Dropped) -> None:
        """Count a sample that does not, by reason; the first names of each reason are remembered."""
        self.dropped[dropped.reason] += 1
        names = self.dropped_names.setdefault(dropped.reason, [])
        if len(names) < NAMES_KEPT:
            names.append(dropped.name)


def is_prepared(folder: Path, description: dict) -> bool:
    """Return whether `folder` holds the very set that `description` asks for.

    Raises:
        ValueError: the folder holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise ValueError(
            f"{folder} exists without a manifest.json; expected a prepared set, or nothing. Move it away."
        )
    found = json.loads(manifest.read_text(encoding="utf-8")).get("made_from", {})
    if found != description:
        raise ValueError(
            f"{folder} was prepared otherwise: {'; '.join(differences(found, description))}. "
            "Remove the folder to prepare it anew, or choose another."
        )
    return True


def differences(found: object, expected: object, name: str = "") -> list[str]:
    """Return what differs between two nested plain values, a line each."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = sorted(found.keys() | expected.keys())
        nested = (differences(found.get(key), expected.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
        return [line for lines in nested for line in lines]
    return [] if found == expected else [f"{name}: found {found!r}, expected {expected!r}"]


def prepare_set(
    folder: Path, chosen: SampleSet, description: dict, pool: Executor, progress: Callable[[Tally], None]
) -> dict:
    """Write one set into `folder` and return its manifest; until it is whole it stands under another name.

    Args:
        folder: where the set goes; not there yet, or empty.
        chosen: the source and the filters.
        description: `chosen.description()`, kept in the manifest so that a later run knows the set again.
        pool: worker processes, started with `start_worker`, that know the set under `folder.name`.
        progress: called after each sample.

    Raises:
        ValueError: no sample is left.
    """
    from datamodules.shards.index import build_index
    from datamodules.shards.writer import write_shards

    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    tally = Tally()
    kept = keep(examine(chosen.source, folder.name, pool), chosen.filters, tally, progress)
    shards = write_shards(
        ({"__key__": sample.key, **sample.members} for sample in kept),
        unfinished,
        max_samples=chosen.max_samples,
    )
    if not tally.kept:
        raise ValueError(
            f"found no good sample in {chosen.source.path}, dropped: {dict(tally.dropped)}; expected at least one. "
            f"Look at {next(iter(tally.dropped_names.values()), ['the source'])[0]}, or change the filters."
        )
    for shard in shards:
        build_index(unfinished / shard["name"])
    manifest = {
        "version": VERSION,
        "set": folder.name,
        "samples": tally.kept,
        "shards": shards,
        "members": dict(sorted(tally.members.items())),
        "dropped": dict(sorted(tally.dropped.items())),
        "dropped_names": dict(sorted(tally.dropped_names.items())),
        **chosen.source.report(unfinished, tally.notes),
        "made_from": description,
    }
    write_synced(unfinished / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    os.replace(unfinished, folder)
    return manifest


def start_worker(sets: dict[str, SampleSet]) -> None:
    """Give a worker process every set, once, instead of with each piece of work."""
    _sets.update(sets)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the main process, and that ends its workers


def examine(source: Source, name: str, pool: Executor) -> Iterator[Examined]:
    """Load and examine a source's samples in worker processes, a bounded number ahead; yields in the source's order."""
    samples, ahead = iter(source), deque()
    while chunk := list(islice(samples, CHUNK_SAMPLES)):
        ahead.append(pool.submit(examine_chunk, name, chunk))
        if len(ahead) == CHUNKS_AHEAD:
            yield from ahead.popleft().result()
    for future in ahead:
        yield from future.result()


def examine_chunk(name: str, chunk: list[Sample | Dropped]) -> list[Examined]:
    """Make, load and examine a few samples in a worker process."""
    chosen = _sets[name]
    return [examined for item in chunk for examined in examine_one(item, chosen.source, chosen.filters)]


def examine_one(item: Sample | Dropped, source: Source, filters: list[Filter]) -> Iterator[Examined]:
    """Make the samples of one that the source iterated, load each and collect what each filter finds in it."""
    for made in source.expand(item) if isinstance(item, Sample) else [item]:
        if not isinstance(made, Sample):
            yield made, []
            continue
        try:
            loaded = load(made)
            yield loaded, [chosen.examine(loaded) for chosen in filters]
        except Reject as rejected:
            yield Dropped(made.name, str(rejected)), []


def keep(
    examined: Iterable[Examined], filters: list[Filter], tally: Tally, progress: Callable[[Tally], None]
) -> Iterator[Sample]:
    """Yield the samples that every filter keeps, under keys that occur once; count them and the rest."""
    keys: set[str] = set()
    numbers = count(2)
    for item, findings in examined:
        if isinstance(item, Note):
            tally.notes.append(item)
            continue
        if isinstance(item, Sample):
            key = item.key
            while key in keys:
                key = f"{item.key}-{next(numbers)}"
            item = replace(item, key=key)
            judged = (
                chosen.judge(finding, item.key) for chosen, finding in zip(filters, findings, strict=True)
            )
            found = next(filter(None, judged), None)
            if isinstance(found, Rejected):
                item = Dropped(item.name, found.reason, item, found.twin)
            elif found:
                item = Dropped(item.name, found, item)
        if isinstance(item, Dropped):
            tally.drop(item)
        else:
            tally.keep(item)
            keys.add(item.key)
            yield item
        progress(tally)


def describe(built: object) -> dict:
    """Return the class path and the init arguments of a source, filter or the like as plain values."""
    arguments = {each.name: getattr(built, each.name) for each in fields(built) if each.init}
    return {
        "class_path": f"{type(built).__module__}.{type(built).__qualname__}",
        "init_args": {name: plain(value) for name, value in arguments.items()},
    }


def plain(value: object) -> object:
    """Return an init argument as JSON can hold it."""
    if is_dataclass(value):
        return describe(value)
    return str(value) if isinstance(value, Path) else value


def write_synced(path: Path, text: str) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())

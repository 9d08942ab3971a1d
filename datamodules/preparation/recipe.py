"""Recipe: what one set of shards is made from."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

from datamodules.preparation.chunks.chunking import Chunks
from datamodules.preparation.cleaning.filter import Filter
from datamodules.preparation.cleaning.media import Undecodable
from datamodules.preparation.cleaning.quality import Quality
from datamodules.preparation.cleaning.texts import EmptyText
from datamodules.preparation.step import Step
from datamodules.sources.source import Source

VERSION = 2
MAX_SHARD_BYTES = 1 << 28


@dataclass
class Recipe:
    """What one set of shards is made from."""

    source: Source
    """The layout of the raw data, by class path; `datamodules/sources/` has one file per layout."""
    chunk: Chunks | None = None
    """How long texts, sounds and videos are cut, with overlap; by default they stay whole."""
    filters: list[Filter] | None = None
    """Filters in order; by default those for undecodable media and for empty texts."""
    quality: Quality | None = None
    """Writes how good the media of a sample are beside them, as numbers; by default not."""
    steps: list[Step] | None = None
    """What is done to the kept samples of each shard, in order, such as running a model; by default nothing."""
    max_samples: int = 1000
    """The most samples in one shard; before steps, which may drop some."""
    max_bytes: int = MAX_SHARD_BYTES
    """The most bytes in one shard, which is held in memory until it is written; a larger sample stands alone."""
    max_errors: int = 100
    """The most samples that may be dropped because a source, chunks or a filter failed on them unexpectedly."""

    def __post_init__(self) -> None:
        if self.filters is None:
            self.filters = [Undecodable(), EmptyText()]
        self.steps = self.steps or []
        for name in ("max_samples", "max_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")

    def description(self) -> dict:
        """Return what the set is made from as plain values: equal descriptions make equal shards."""
        return {
            "version": VERSION,
            "source": describe(self.source),
            "files": self.source.fingerprint(),
            "chunk": describe(self.chunk) if self.chunk else None,
            "filters": [describe(chosen) for chosen in self.filters or ()],
            **({"quality": describe(self.quality)} if self.quality else {}),
            "steps": [{**describe(step), "identity": step.identity()} for step in self.steps or ()],
            "max_samples": self.max_samples,
            "max_bytes": self.max_bytes,
        }


def describe(built: object) -> dict:
    """Return the class path and the init arguments of a source, filter or the like as plain values."""
    arguments = {each.name: getattr(built, each.name) for each in fields(built) if each.init}  # type: ignore[arg-type]
    return {
        "class_path": f"{type(built).__module__}.{type(built).__qualname__}",
        "init_args": {name: plain(value) for name, value in arguments.items()},
    }


def plain(value: object) -> object:
    """Return an init argument as JSON can hold it."""
    if is_dataclass(value) and not isinstance(value, type):
        return describe(value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(each) for each in value)  # type: ignore[type-var]
    return str(value) if isinstance(value, Path) else value

"""Tally: what became of a source's samples, as the manifest and the report tell it."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import floor, log2
from typing import Any

from datamodules.sources.source import Dropped, Note, Sample

NAMES_KEPT = 20
EXHIBITS_KEPT = 12
BINS_PER_DOUBLING = 4
KEPT = "kept"

Exhibit = Callable[[Sample | Dropped], dict[str, Any]]
Measure = Callable[[Sample], Mapping[str, float]]


@dataclass
class Histogram:
    """How one measure is spread: exact at the ends, in bins of a quarter of a doubling between."""

    count: int = 0
    total: float = 0.0
    least: float = float("inf")
    most: float = float("-inf")
    bins: Counter[int] = field(default_factory=Counter)
    """Number of the bin to how many values lie in it: bin b holds [2^(b/4), 2^((b+1)/4))."""
    zeros: int = 0
    """Values of 0 and below, which no bin holds."""

    def add(self, value: float) -> None:
        """Count a value."""
        self.count += 1
        self.total += value
        self.least, self.most = min(self.least, value), max(self.most, value)
        if value > 0:
            self.bins[floor(BINS_PER_DOUBLING * log2(value))] += 1
        else:
            self.zeros += 1

    def plain(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {**vars(self), "bins": [[number, self.bins[number]] for number in sorted(self.bins)]}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Histogram":
        """Return what `plain` returned as a histogram again."""
        return cls(**{**plain, "bins": Counter(dict(plain["bins"]))})


@dataclass
class Tally:
    """What became of a source's samples."""

    exhibit: Exhibit | None = None
    """Makes a small preview of a sample or of what was dropped, for the report."""
    kept: int = 0
    members: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_names: dict[str, list[str]] = field(default_factory=dict)
    measures: dict[str, Histogram] = field(default_factory=dict)
    """Of the kept samples, by name."""
    errors: int = 0
    """Among the dropped, those that something failed on."""
    notes: list[Note] = field(default_factory=list)
    exhibits: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The first previews of each reason, and under `kept` those of kept samples."""

    def keep(self, sample: Sample, measures: Mapping[str, float]) -> None:
        """Count a sample that goes into the shards."""
        self.kept += 1
        self.members.update(sample.members.keys())
        for name, value in measures.items():
            self.measures.setdefault(name, Histogram()).add(value)
        self._show(KEPT, sample)

    def drop(self, dropped: Dropped) -> None:
        """Count a sample that does not, by reason; the first names of each reason are remembered."""
        self.dropped[dropped.reason] += 1
        names = self.dropped_names.setdefault(dropped.reason, [])
        if len(names) < NAMES_KEPT:
            names.append(dropped.name)
        self._show(dropped.reason, dropped)

    def note(self, note: Note) -> None:
        """Keep what a source noted, with the very values that it has after a journal."""
        self.notes.append(Note(note.kind, json.loads(json.dumps(note.content))))

    def _show(self, reason: str, item: Sample | Dropped) -> None:
        if self.exhibit is not None and len(shown := self.exhibits.setdefault(reason, [])) < EXHIBITS_KEPT:
            shown.append(json.loads(json.dumps(self.exhibit(item))))

    def counts(self) -> dict[str, Any]:
        """Return the counts as JSON holds them: all but notes and exhibits, which grow."""
        return {
            "kept": self.kept,
            "members": dict(self.members),
            "dropped": dict(self.dropped),
            "dropped_names": self.dropped_names,
            "measures": {name: histogram.plain() for name, histogram in self.measures.items()},
            "errors": self.errors,
        }

    def restore(self, counts: Mapping[str, Any]) -> None:
        """Go on from what `counts` returned."""
        self.kept, self.errors = counts["kept"], counts["errors"]
        self.members, self.dropped = Counter(counts["members"]), Counter(counts["dropped"])
        self.dropped_names = {reason: list(names) for reason, names in counts["dropped_names"].items()}
        self.measures = {name: Histogram.of(each) for name, each in counts["measures"].items()}

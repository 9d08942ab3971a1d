"""Tally: what became of a source's samples, as the manifest and the report tell it."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datamodules.preparation.exhibits.exhibits import Exhibits
from datamodules.sources.source import Dropped, Note, Sample

NAMES_KEPT = 20


@dataclass
class Tally:
    """What became of a source's samples."""

    kept: int = 0
    members: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_names: dict[str, list[str]] = field(default_factory=dict)
    errors: int = 0
    """Among the dropped, those that something failed on."""
    notes: list[Note] = field(default_factory=list)
    exhibits: Exhibits = field(default_factory=Exhibits)
    """What the report shows of them."""

    def keep(self, sample: Sample, measures: Mapping[str, float]) -> None:
        """Count a sample that goes into the shards."""
        self.kept += 1
        self.members.update(sample.members.keys())
        self.exhibits.keep(sample, measures)

    def drop(self, dropped: Dropped) -> None:
        """Count a sample that does not, by reason; the first names of each reason are remembered."""
        self.dropped[dropped.reason] += 1
        names = self.dropped_names.setdefault(dropped.reason, [])
        if len(names) < NAMES_KEPT:
            names.append(dropped.name)
        self.exhibits.drop(dropped)

    def note(self, note: Note) -> None:
        """Keep what a source noted, with the very values that it has after a journal."""
        self.notes.append(Note(note.kind, json.loads(json.dumps(note.content))))

    def counts(self) -> dict[str, Any]:
        """Return the counts as JSON holds them: all but notes and exhibits, of which a journal holds what is new."""
        return {
            "kept": self.kept,
            "members": dict(self.members),
            "dropped": dict(self.dropped),
            "dropped_names": self.dropped_names,
            "errors": self.errors,
        }

    def restore(self, counts: Mapping[str, Any]) -> None:
        """Go on from what `counts` returned."""
        self.kept, self.errors = counts["kept"], counts["errors"]
        self.members, self.dropped = Counter(counts["members"]), Counter(counts["dropped"])
        self.dropped_names = {reason: list(names) for reason, names in counts["dropped_names"].items()}

"""Exhibits: what a report shows of a set: some kept samples, some of each kind of dropped ones, and histograms."""

import hashlib
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datamodules.preparation.histogram import Histogram
from datamodules.preparation.measures import MEASURES, Measure
from datamodules.preparation.previews import plain, preview
from datamodules.sources.source import Dropped, Member, Sample

VERSION = 1
FILE = "examples.json"
"""Lies beside a set's manifest.json and holds `Exhibits.to_plain()`."""
KEPT = 12
DROPPED = 6
"""Of each reason."""
REASONS = 64
"""Further reasons are counted by the manifest and not shown: there should be few, the same words for all alike."""
PREVIEWS = 6
NAME_CHARACTERS = 200


def exhibit(item: Sample | Dropped) -> dict[str, Any]:
    """Return a sample as a report shows it, plain values.

    `name`; `key` of a kept sample; `reason` and `twin`, the key of what it resembles, of a dropped one; `bytes` of
    the members that are loaded; `previews` of the first six members (see `previews.preview`).
    """
    sample = item if isinstance(item, Sample) else item.sample
    members: Mapping[str, Member] = sample.members if sample else {}
    sizes = [len(member) for member in members.values() if isinstance(member, bytes)]
    shown = {
        "name": plain(item.name, NAME_CHARACTERS),
        "bytes": sum(sizes),
        "previews": [preview(suffix, member) for suffix, member in list(members.items())[:PREVIEWS]],
    }
    if isinstance(item, Sample):
        return {**shown, "key": item.key}
    return {**shown, "reason": item.reason, "twin": item.twin}


@dataclass
class Exhibits:
    """A fair choice of samples, and histograms over all kept ones, collected in a stream that may be stopped.

    Shown are those whose keys or names have the smallest hashes: each sample has the same chance, wherever in the
    set it stands, and neither the order nor how often the work was stopped makes a difference.
    """

    kept: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """(hash, exhibit), ascending."""
    dropped: dict[str, list[tuple[str, dict[str, Any]]]] = field(default_factory=dict)
    """The same by reason."""
    histograms: dict[str, Histogram] = field(default_factory=dict)
    """Measure -> its values over all kept samples."""

    def keep(self, sample: Sample, measured: Mapping[str, float]) -> None:
        """Take note of a kept sample, loaded, and of what `measure` found in it."""
        for name, value in measured.items():
            if name not in self.histograms:
                self.histograms[name] = MEASURES.get(name, Measure(name)).histogram()
            self.histograms[name].add(value)
        choose(self.kept, KEPT, sample)

    def drop(self, dropped: Dropped) -> None:
        """Take note of a dropped sample; it is shown as far as it comes with its members."""
        if dropped.reason in self.dropped or len(self.dropped) < REASONS:
            choose(self.dropped.setdefault(dropped.reason, []), DROPPED, dropped)

    def to_plain(self) -> dict[str, Any]:
        """Return all of it as values that JSON holds: for the report, and to go on from."""
        return {
            "version": VERSION,
            "kept": [[rank, shown] for rank, shown in self.kept],
            "dropped": {
                reason: [[rank, shown] for rank, shown in some] for reason, some in self.dropped.items()
            },
            "histograms": {name: histogram.to_plain() for name, histogram in self.histograms.items()},
        }

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "Exhibits":
        """Return what `to_plain` was called on.

        Raises:
            ValueError: it is nothing that this version of `to_plain` returned.
        """
        try:
            if content["version"] != VERSION:
                raise ValueError(f"its version is {content['version']!r}, expected {VERSION}")
            return cls(
                kept=[(str(rank), dict(shown)) for rank, shown in content["kept"]],
                dropped={
                    reason: [(str(rank), dict(shown)) for rank, shown in some]
                    for reason, some in content["dropped"].items()
                },
                histograms={
                    name: Histogram.from_plain(histogram) for name, histogram in content["histograms"].items()
                },
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"found exhibits that cannot be read ({error!r}); expected those of an {FILE}. Prepare the set again."
            ) from error


def choose(chosen: list[tuple[str, dict[str, Any]]], count: int, item: Sample | Dropped) -> None:
    """Take an item among those chosen if its hash is one of the `count` smallest; only then look at its media."""
    name = item.key if isinstance(item, Sample) else item.name
    rank = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    if (len(chosen) == count and rank >= chosen[-1][0]) or any(rank == taken for taken, _ in chosen):
        return
    insort(chosen, (rank, exhibit(item)), key=lambda pair: pair[0])
    del chosen[count:]

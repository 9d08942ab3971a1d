"""Exhibits: what a report shows of a set: some kept samples, some of each kind of dropped ones, and histograms."""

from collections.abc import Mapping
from typing import Any

from datamodules.preparation.exhibits.choice import Chosen, rank_of
from datamodules.preparation.exhibits.histogram import Histogram
from datamodules.preparation.exhibits.measures import MEASURES, Measure
from datamodules.preparation.exhibits.previews import plain, preview
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


class Worth:
    """Tells a worker process whether a dropped sample may come to be shown, so that its members are worth sending."""

    def __init__(self) -> None:
        self.by_reason: dict[str, Chosen] = {}

    def __call__(self, name: str, reason: str) -> bool:
        """Return whether this name is among the few of its reason that this process has met."""
        if reason not in self.by_reason and len(self.by_reason) == REASONS:
            return False
        chosen, rank = self.by_reason.setdefault(reason, Chosen(DROPPED)), rank_of(name)
        if is_wanted := chosen.wants(rank):
            chosen.take(rank)
        return is_wanted


class Exhibits:
    """Some samples of a set, kept and dropped, and histograms over all kept ones, collected in a stream."""

    def __init__(self) -> None:
        self.kept = Chosen(KEPT)
        self.dropped: dict[str, Chosen] = {}
        """By reason."""
        self.histograms: dict[str, Histogram] = {}
        """Measure -> its values over all kept samples."""
        self.fresh: list[tuple[str | None, str, dict[str, Any]]] = []
        """(reason or None, hash, exhibit) since the last `news`."""

    def keep(self, sample: Sample, measured: Mapping[str, float]) -> None:
        """Take note of a kept sample, loaded, and of what `measure` found in it."""
        for name, value in measured.items():
            if name not in self.histograms:
                self.histograms[name] = MEASURES.get(name, Measure(name)).histogram()
            self.histograms[name].add(value)
        rank = rank_of(sample.key)
        if self.kept.wants(rank):
            self.show(None, rank, exhibit(sample))

    def drop(self, dropped: Dropped) -> None:
        """Take note of a dropped sample; it is shown as far as it comes with its members."""
        rank = rank_of(dropped.name)
        if (chosen := self.of(dropped.reason)) and chosen.wants(rank):
            self.show(dropped.reason, rank, exhibit(dropped))

    def of(self, reason: str | None) -> Chosen | None:
        """Return those shown of a reason, or for None of the kept ones; None for a reason too many."""
        if reason is None:
            return self.kept
        if reason not in self.dropped and len(self.dropped) == REASONS:
            return None
        return self.dropped.setdefault(reason, Chosen(DROPPED))

    def show(self, reason: str | None, rank: str, shown: dict[str, Any]) -> None:
        """Take an exhibit that is wanted."""
        if chosen := self.of(reason):
            chosen.take(rank, shown)
            self.fresh.append((reason, rank, shown))

    def news(self) -> dict[str, Any]:
        """Return what changed since the last call, for a journal: few exhibits, and all counts, which are small."""
        fresh = [list(entry) for entry in self.fresh]
        self.fresh = []
        return {"fresh": fresh, "histograms": self.plain_histograms()}

    def replay(self, news: Mapping[str, Any]) -> None:
        """Go on from what `news` returned, after all that it returned before."""
        for reason, rank, shown in news["fresh"]:
            if (chosen := self.of(reason)) and chosen.wants(rank):
                chosen.take(rank, shown)
        self.histograms = {
            name: Histogram.from_plain(histogram) for name, histogram in news["histograms"].items()
        }

    def plain_histograms(self) -> dict[str, Any]:
        """Return the histograms as values that JSON holds."""
        return {name: histogram.to_plain() for name, histogram in self.histograms.items()}

    def to_plain(self) -> dict[str, Any]:
        """Return all of it as values that JSON holds: for the report, and to go on from."""
        return {
            "version": VERSION,
            "kept": [list(pair) for pair in self.kept.ranked],
            "dropped": {
                reason: [list(pair) for pair in chosen.ranked] for reason, chosen in self.dropped.items()
            },
            "histograms": self.plain_histograms(),
        }

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> "Exhibits":
        """Return what `to_plain` was called on.

        Raises:
            ValueError: it is nothing that this version of `to_plain` returned.
        """
        exhibits = cls()
        try:
            if content["version"] != VERSION:
                raise ValueError(f"its version is {content['version']!r}, expected {VERSION}")
            fresh = [(None, rank, dict(shown)) for rank, shown in content["kept"]]
            for reason, some in content["dropped"].items():
                fresh += [(reason, rank, dict(shown)) for rank, shown in some]
            exhibits.replay({"fresh": fresh, "histograms": content["histograms"]})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"found exhibits that cannot be read ({error!r}); expected those of an {FILE}. Prepare the set again."
            ) from error
        return exhibits

"""Filters for samples whose members do not belong together, or lack what makes them a pair."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from datamodules.preparation.cleaning.filter import Filter, Reject
from datamodules.sources.source import IMAGE_SUFFIXES, SOUND_SUFFIXES, Sample

KINDS = {
    "image": IMAGE_SUFFIXES,
    "audio": SOUND_SUFFIXES,
    "text": frozenset({"txt"}),
    "video": frozenset({"mp4", "mkv", "webm"}),
}
"""What `Require` calls the members that any of several suffixes may hold."""

ORIGIN = "origin.json"
"""Member that says of other members where they come from, as `{"txt": {"weak": true, "model": …}}`."""


@dataclass
class Require(Filter):
    """Drop samples that lack a member."""

    members: list[str]
    """Kinds (image, audio, text, video) or suffixes (json, cls, …) that every sample must have."""

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError(
                "Require.members is empty: name what every sample must have, such as [image, text]"
            )

    def examine(self, sample: Sample) -> None:
        for name in self.members:
            if KINDS.get(name, frozenset({name})).isdisjoint(sample.members):
                raise Reject(f"no {name}")


@dataclass
class RepeatedText(Filter):
    """Drop samples whose text stands beside many different media: boilerplate such as "image unavailable".

    Samples come one after another, so the first `max_media` are kept; what they are depends on the order.
    """

    max_media: int = 10
    """How many different media may have the same text, apart from upper case and white space."""
    seen: dict[bytes, set[bytes]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.max_media < 1:
            raise ValueError(f"RepeatedText.max_media is {self.max_media}, expected 1 or more")

    def examine(self, sample: Sample) -> tuple[bytes, bytes] | None:
        media = {suffix: data for suffix, data in sample.members.items() if suffix != "txt"}
        if "txt" not in sample.members or not media:
            return None
        text = " ".join(sample.members["txt"].decode().casefold().split())
        digest = hashlib.sha256()
        for suffix, data in sorted(media.items()):
            digest.update(f"{suffix} {len(data)} ".encode())
            digest.update(data)
        return hashlib.sha256(text.encode()).digest()[:16], digest.digest()[:16]

    def judge(self, finding: tuple[bytes, bytes] | None, key: str) -> str | None:
        if finding is None:
            return None
        text, media = finding
        beside = self.seen.setdefault(text, set())
        if media not in beside and len(beside) == self.max_media:
            return "text repeated beside many media"
        beside.add(media)
        return None


@dataclass
class WeakText(Filter):
    """Drop samples whose text a model wrote."""

    def examine(self, sample: Sample) -> None:
        about = origins(sample).get("txt")
        if isinstance(about, dict) and about.get("weak") is True:
            raise Reject("weak text")


def origins(sample: Sample) -> dict[str, Any]:
    """Return what a loaded sample says of where its members come from; nothing where it says nothing readable."""
    try:
        found = json.loads(sample.members.get(ORIGIN, b"{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

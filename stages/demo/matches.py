"""Matches: do picture and speech of the embedded scenes belong together, so made that neither tells it alone."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.sources.source import Dropped, Note, Sample, Source, key_of, walk

MATCHED, SWAPPED = "matched", "swapped"


@dataclass
class Matches(Source):
    """Pairs of picture and speech, half of them matched and half swapped: a task that needs both.

    Every picture and every speech is in exactly one matched and one swapped pair, so whoever looks at one modality
    alone is right half of the time, whatever it learned. Swapped speech says another caption. Only scenes with picture,
    speech and caption are taken. The pairs depend on the files' names and the seed alone.
    """

    path: Path
    """A folder of scenes such as `runs/demo/raw/scenes/train`; pairs never cross folders, so splits stay apart."""
    seed: int = 0
    """Of who is swapped with whom."""

    def files(self) -> list[Path]:
        return walk(self.path, frozenset({"jpg", "flac", "txt"}))

    def expects(self) -> str:
        return "scenes: files ending in jpg, flac and txt, those of one scene with one stem"

    def __len__(self) -> int:
        return 2 * len(self.scenes())

    def report(self, folder: Path, notes: Sequence[Note] = ()) -> dict:
        return {"classes": [MATCHED, SWAPPED]}

    def scenes(self) -> list[Path]:
        """Return the stems of the scenes that have all three, sorted."""
        found: dict[Path, set[str]] = {}
        for file in self.files():
            found.setdefault(file.with_suffix(""), set()).add(file.suffix)
        return sorted(stem for stem, suffixes in found.items() if {".jpg", ".flac", ".txt"} <= suffixes)

    def __iter__(self) -> Iterator[Sample | Dropped]:
        scenes = self.scenes()
        captions = [scene.with_suffix(".txt").read_text(encoding="utf-8").strip() for scene in scenes]
        others = swap(captions, np.random.default_rng([self.seed, *b"matches"]))
        for shown, other in zip(scenes, others, strict=True):
            for label, heard in ((MATCHED, shown), (SWAPPED, scenes[other])):
                name = f"{label}/{shown.relative_to(self.path).as_posix()}"
                members = {
                    "jpg": shown.with_suffix(".jpg"),
                    "flac": heard.with_suffix(".flac"),
                    "cls": label.encode(),
                }
                yield Sample(key_of(name), members, name)


def swap(captions: list[str], rng: np.random.Generator) -> list[int]:
    """Return for each caption the place of another one that says something else; each place is taken once.

    Raises:
        ValueError: when one caption is more than half of all: then there is no such order.
    """
    step = max(Counter(captions).values(), default=0)
    if step > len(captions) / 2:
        raise ValueError(
            f"one caption is {step} of {len(captions)}: expected at most half, so that all can be swapped"
        )
    # In the order of captions, a step as long as the largest group leads out of every group.
    order = sorted(rng.permutation(len(captions)).tolist(), key=captions.__getitem__)
    others = [0] * len(order)
    for place, scene in enumerate(order):
        others[scene] = order[(place + step) % len(order)]
    return others

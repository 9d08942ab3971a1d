"""Making one set: what is examined is judged, goes through the steps, and is written shard by shard."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from datamodules.preparation.engines.engine import Engine
from datamodules.preparation.engines.examining import Examined
from datamodules.preparation.exhibits.exhibits import FILE as EXAMPLES
from datamodules.preparation.recipe import VERSION, Recipe
from datamodules.preparation.sets.journal import LOCK, Journal, Progress
from datamodules.preparation.sets.selection import Selection
from datamodules.preparation.sets.tally import Tally
from datamodules.preparation.step import Step
from datamodules.shards.index import build_index, index_path
from datamodules.shards.whole import no_room, write_whole
from datamodules.shards.writer import shard_name, write_shard
from datamodules.sources.source import Dropped, Note, Sample

SPILL = ".spill"
MANIFEST = "manifest.json"


class Making:
    """One run at an unfinished set."""

    def __init__(self, unfinished: Path, recipe: Recipe, description: dict) -> None:
        self.unfinished, self.recipe, self.description = unfinished, recipe, description
        self.steps: list[Step] = recipe.steps or []
        self.selection = Selection(recipe.filters or [])
        self.journal = Journal(unfinished, description)
        self.progress: Progress = self.journal.resume(self.selection, self.steps)
        self.tally = self.progress.tally
        self.pending: list[tuple[Sample, Mapping[str, float]]] = []
        self.pending_bytes = 0

    def make_shards(
        self, engine: Engine, name: str, total: int, progress: Callable[[int, Tally], None]
    ) -> None:
        """Write all shards that are not there yet."""
        first, num_taken = self.progress.source_item, self.progress.num_taken
        items = islice(iter(self.recipe.source), first, None)
        for examined in engine.examine(name, items, first, total, self.unfinished / SPILL):
            if examined.source_item == first and num_taken > 0:
                num_taken -= 1  # of the item that the last whole shard ended in
                continue
            self.take(examined)
            progress(self.tally.kept + len(self.pending), self.tally)
        self.flush()

    def take(self, examined: Examined) -> None:
        """Note, drop or keep what came of an item; writes a shard when it is full."""
        item = examined.item
        size = sum(map(len, item.members.values())) if isinstance(item, Sample) else 0
        if self.pending and (
            len(self.pending) == self.recipe.max_samples or self.pending_bytes + size > self.recipe.max_bytes
        ):
            self.flush()
        if isinstance(item, Note):
            self.tally.note(item)
        elif isinstance(item, Dropped):
            self.tally.drop(item)
            self.count_error(examined)
        elif isinstance(chosen := self.selection(examined), Dropped):
            self.tally.drop(chosen)
        else:
            self.pending.append((chosen, examined.measures))
            self.pending_bytes += size
        is_same = examined.source_item == self.progress.source_item
        self.progress.num_taken = self.progress.num_taken + 1 if is_same else 1
        self.progress.source_item = examined.source_item

    def count_error(self, examined: Examined) -> None:
        """Stop where too many samples fail for no known reason: that is a mistake in the program, not in the data.

        Raises:
            ValueError: there are more than `max_errors`.
        """
        self.tally.errors += examined.is_error
        if self.tally.errors > self.recipe.max_errors and isinstance(dropped := examined.item, Dropped):
            raise ValueError(
                f"{self.tally.errors} samples failed for no known reason, the last: {dropped.reason}: {dropped.name}; "
                f"expected at most max_errors = {self.recipe.max_errors}. What is named there may be wrong itself."
            )

    def flush(self) -> None:
        """Run the steps over the pending samples, write what they keep as a shard, and enter it in the journal."""
        kept = []
        for item, measures in self.stepped():
            if isinstance(item, Dropped):
                self.tally.drop(item)
            else:
                self.tally.keep(item, measures)
                kept.append(item)
        self.pending, self.pending_bytes = [], 0
        if not kept:
            return
        tar = self.unfinished / shard_name(len(self.progress.shards))
        shard = write_shard([{"__key__": sample.key, **sample.members} for sample in kept], tar)
        build_index(tar)
        if not index_path(tar).exists():
            raise no_room(index_path(tar), None, OSError())
        self.progress.shards.append(shard)
        self.journal.write(self.progress, self.steps)

    def stepped(self) -> list[tuple[Sample | Dropped, Mapping[str, float]]]:
        """Return what becomes of the pending samples in the steps.

        Raises:
            ValueError: a step returns another number than it was given, or members that are not bytes.
        """
        results: list[Sample | Dropped] = [sample for sample, _ in self.pending]
        for step in self.steps:
            samples = [result for result in results if isinstance(result, Sample)]
            made = step(samples) if samples else []
            if len(made) != len(samples):
                raise ValueError(
                    f"{type(step).__name__} was given {len(samples)} samples and returned {len(made)}"
                )
            after = iter(made)
            results = [next(after) if isinstance(result, Sample) else result for result in results]
        # A step may not change a key: they were made to occur once.
        keyed = [
            replace(result, key=sample.key) if isinstance(result, Sample) else result
            for result, (sample, _) in zip(results, self.pending, strict=True)
        ]
        return list(zip(keyed, (measures for _, measures in self.pending), strict=True))

    def finish(self, name: str) -> None:
        """Write the examples for the report, and the manifest, which says that all is there.

        Raises:
            ValueError: no sample was kept.
        """
        tally, recipe = self.tally, self.recipe
        if not tally.kept:
            shutil.rmtree(self.unfinished)
            raise ValueError(
                f"found no good sample in {recipe.source.path}, dropped: {dict(tally.dropped)}; expected at least one. "
                f"Look at {next(iter(tally.dropped_names.values()), ['the source'])[0]}, or change the filters."
            )
        manifest: dict[str, Any] = {
            "version": VERSION,
            "set": name,
            "samples": tally.kept,
            "bytes": sum(shard["bytes"] for shard in self.progress.shards),
            "shards": self.progress.shards,
            "members": dict(sorted(tally.members.items())),
            "dropped": dict(sorted(tally.dropped.items())),
            "dropped_names": dict(sorted(tally.dropped_names.items())),
            **recipe.source.report(self.unfinished, tally.notes),
        }
        for step in self.steps:
            manifest |= step.report()
        manifest["made_from"] = self.description
        examples = json.dumps(tally.exhibits.to_plain(), ensure_ascii=False, separators=(",", ":"))
        write_whole(self.unfinished / EXAMPLES, examples.encode("utf-8", "replace"))
        for path in self.unfinished.iterdir():
            sync(path)
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        write_whole(self.unfinished / MANIFEST, text.encode("utf-8", "surrogateescape"))


def sync(path: Path) -> None:
    """Wait until a file that a source, step or report wrote is on the disk."""
    if path.is_file() and path.name != LOCK:
        with open(path, "rb") as file:
            os.fsync(file.fileno())

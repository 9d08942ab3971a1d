"""Journal: how far an unfinished set is, a file for each whole shard, so that the next run goes on behind it."""

import base64
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.preparation.sets.selection import Selection
from datamodules.preparation.sets.tally import Tally
from datamodules.preparation.step import Step
from datamodules.shards.index import index_path
from datamodules.shards.whole import sync_folder, write_whole
from datamodules.sources.source import Note

FOLDER, LOCK = ".journal", ".lock"


@dataclass
class Progress:
    """Everything that making the next shard depends on."""

    selection: Selection
    tally: Tally
    shards: list[dict[str, Any]] = field(default_factory=list)
    source_item: int = 0
    """The item of the source that comes next."""
    num_taken: int = 0
    """How many things that came of it are in the shards already, or counted."""


class Journal:
    """Writes what each shard added, and reads it all again.

    Args:
        folder: of the unfinished set.
        description: of what it is made from; what was written for another is not read.
    """

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self.folder, self.entries = folder, folder / FOLDER
        text = json.dumps(description, sort_keys=True)
        self.identity = hashlib.sha256(text.encode()).hexdigest()
        self.num_notes = 0

    def write(self, progress: Progress, steps: list[Step]) -> None:
        """Note that the last of the shards is whole and indexed: from here on it is never made again.

        Raises:
            DiskFullError: there is no room; the shard will be made again.
            TypeError: a filter found something that is neither None, bytes, text, a number nor a tuple of them.
        """
        tally, selection = progress.tally, progress.selection
        entry = {
            "identity": self.identity,
            "shard": progress.shards[-1],
            "source_item": progress.source_item,
            "num_taken": progress.num_taken,
            "counts": tally.counts(),
            "notes": [[note.kind, note.content] for note in tally.notes[self.num_notes :]],
            "exhibits": tally.exhibits.news(),
            "judged": [[key, is_kept, packed(findings)] for key, is_kept, findings in selection.judged],
            "number": selection.number,
            "steps": [step.state() for step in steps],
        }
        if not self.entries.is_dir():
            self.entries.mkdir()
            sync_folder(self.folder)
        data = json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
        write_whole(self.entries / f"{len(progress.shards) - 1:06d}.json", data)
        selection.judged.clear()
        self.seen(tally)

    def seen(self, tally: Tally) -> None:
        """Remember how much of the tally is written."""
        self.num_notes = len(tally.notes)

    def resume(self, selection: Selection, steps: list[Step]) -> Progress:
        """Return how far the set is, and clear away all that no entry vouches for.

        A shard counts if its entry is of this very set and all before it count as well.
        """
        progress = Progress(selection, Tally())
        entry: dict[str, Any] = {}
        while read := self.entry(len(progress.shards)):
            entry = read
            progress.shards.append(entry["shard"])
            judged = ((key, is_kept, unpacked(findings)) for key, is_kept, findings in entry["judged"])
            selection.replay(judged, entry["number"])
            progress.tally.notes += [Note(kind, content) for kind, content in entry["notes"]]
            progress.tally.exhibits.replay(entry["exhibits"])
        if entry:
            progress.source_item, progress.num_taken = entry["source_item"], entry["num_taken"]
            progress.tally.restore(entry["counts"])
            for step, state in zip(steps, entry["steps"], strict=True):
                step.restore(state)
        self.clear(progress.shards)
        self.seen(progress.tally)
        return progress

    def entry(self, number: int) -> dict[str, Any] | None:
        """Return what was noted behind a shard, if the shard is there and it belongs to this set."""
        try:
            entry = json.loads(
                (self.entries / f"{number:06d}.json").read_bytes().decode("utf-8", "surrogatepass")
            )
            tar = self.folder / entry["shard"]["name"]
            if entry["identity"] == self.identity and tar.stat().st_size == entry["shard"]["bytes"]:
                return entry
        except (OSError, ValueError, KeyError):
            pass  # none, or none of ours: the shard is made anew
        return None

    def clear(self, shards: list[dict[str, Any]]) -> None:
        """Remove everything but whole shards, their indices and their entries."""
        names = {shard["name"] for shard in shards}
        kept = names | {index_path(Path(name)).name for name in names} | {FOLDER, LOCK}
        for path in self.folder.iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        entries = {f"{number:06d}.json" for number in range(len(shards))}
        for path in self.entries.iterdir() if self.entries.is_dir() else ():
            if path.name not in entries:
                path.unlink()


def packed(finding: Any) -> Any:
    """Return a finding as JSON holds it.

    Raises:
        TypeError: it is of another kind than those.
    """
    if isinstance(finding, bytes):
        return {"bytes": base64.b64encode(finding).decode()}
    if isinstance(finding, (tuple, list)):
        return [packed(each) for each in finding]
    if finding is None or type(finding) in (str, bool, int, float):
        return finding
    raise TypeError(
        f"a filter's finding is a {type(finding).__name__} ({finding!r:.60}); "
        "expected None, bytes, str, bool, int, float or a tuple of them"
    )


def unpacked(packed: Any) -> Any:
    """Return what `packed` was made from: tuples, never lists."""
    if isinstance(packed, dict):
        return base64.b64decode(packed["bytes"])
    return tuple(map(unpacked, packed)) if isinstance(packed, list) else packed

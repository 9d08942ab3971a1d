"""Clean the media that a user has, align subtitles in time, and pack all of it into shards."""

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import monotonic

# The sources and filters are imported so that --help lists them and a short name such as `Folder` will do.
from datamodules.preparation.cleaning import EmptyText, ExactDuplicates, TextLength, Undecodable  # noqa: F401
from datamodules.preparation.sets import SampleSet, Tally, is_prepared, prepare_set, start_worker
from datamodules.sources.class_folder import ClassFolder  # noqa: F401
from datamodules.sources.folder import Folder  # noqa: F401
from datamodules.sources.llava_json import LlavaJson  # noqa: F401
from datamodules.sources.subtitled_videos import SubtitledVideos  # noqa: F401
from datamodules.sources.text_lines import TextLines  # noqa: F401


def prepare(
    out: Path, sets: dict[str, SampleSet] | None = None, one: SampleSet | None = None, workers: int = 2
) -> None:
    """Turn raw media into shards: per set one folder of tars, with manifest and index.

    A set that is there already, made from the same files with the same config, is left as it is. A set's folder
    appears under its name only when it is whole.

    Args:
        out: Where the sets' folders go; with `one`, the folder of that set itself.
        sets: The sets by name.
        one: A single set without a config file: `--one.source Folder --one.source.path photos`.
        workers: Processes that read and check media.

    Raises:
        FileNotFoundError: a source is missing or empty.
        ValueError: nothing is asked for, a set's folder holds something else, or no sample of a set is left.
    """
    folders = {out / name: chosen for name, chosen in (sets or {}).items()} | ({out: one} if one else {})
    if not folders:
        raise ValueError(
            "found nothing to prepare; expected `sets` in a --config, or --one.source. See --help."
        )
    for chosen in folders.values():
        chosen.source.check()
    descriptions = {folder: chosen.description() for folder, chosen in folders.items()}
    missing = {
        folder: chosen for folder, chosen in folders.items() if not is_prepared(folder, descriptions[folder])
    }
    for folder in folders:
        if folder not in missing:
            print(f"{folder}: already prepared")
    if not missing:
        return

    named = {folder.name: chosen for folder, chosen in missing.items()}
    processes = min(workers, os.cpu_count() or 1)
    pool = ProcessPoolExecutor(processes, initializer=start_worker, initargs=(named,))
    with pool, Progress() as progress:
        for folder, chosen in missing.items():
            progress.begin(folder.name, len(chosen.source))
            progress.end(prepare_set(folder, chosen, descriptions[folder], pool, progress))
    progress.print_table()


class Progress:
    """Shows a bar per set with the samples kept and dropped, and at the end a table of what became of each set."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        counts = TextColumn("[green]{task.fields[kept]} kept [yellow]{task.fields[dropped]} dropped")
        self.bars = Bars("{task.description}", BarColumn(), MofNCompleteColumn(), counts, TimeElapsedColumn())
        self.manifests: list[tuple[dict, float]] = []

    def __enter__(self) -> "Progress":
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def begin(self, name: str, total: int) -> None:
        """Open the bar of a set with about `total` samples."""
        self.task = self.bars.add_task(name, total=total, kept=0, dropped=0)
        self.began = monotonic()

    def __call__(self, tally: Tally) -> None:
        """Show how far the set is."""
        dropped = tally.dropped.total()
        self.bars.update(self.task, completed=tally.kept + dropped, kept=tally.kept, dropped=dropped)

    def end(self, manifest: dict) -> None:
        """Close the bar of a set."""
        count = manifest["samples"] + sum(manifest["dropped"].values())
        self.bars.update(self.task, completed=count, total=count)
        self.manifests.append((manifest, monotonic() - self.began))

    def print_table(self) -> None:
        """Print a line per set, and the names of what was dropped."""
        from rich.console import Console
        from rich.table import Table

        console, table = Console(), Table()
        for heading in ("set", "samples", "members", "dropped", "shards", "MB", "seconds"):
            table.add_column(heading, no_wrap=heading == "set")
        for manifest, seconds in self.manifests:
            members = " ".join(f"{suffix} {count}" for suffix, count in manifest["members"].items())
            dropped = ", ".join(f"{reason} {count}" for reason, count in manifest["dropped"].items()) or "-"
            megabytes = sum(shard["bytes"] for shard in manifest["shards"]) / 1e6
            table.add_row(
                manifest["set"],
                f"{manifest['samples']}",
                members,
                dropped,
                f"{len(manifest['shards'])}",
                f"{megabytes:.1f}",
                f"{seconds:.1f}",
            )
        console.print(table)
        for manifest, _ in self.manifests:
            for reason, names in manifest["dropped_names"].items():
                rest = manifest["dropped"][reason] - len(names)
                more = f" and {rest} more" if rest else ""
                console.print(
                    f"{manifest['set']}: {reason}: {', '.join(names)}{more}", markup=False, highlight=False
                )

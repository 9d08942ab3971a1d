"""Progress: a bar per set with the samples kept and dropped, and at the end a table of what became of each set."""

from time import monotonic

from datamodules.preparation.sets.tally import Tally

SECONDS_BETWEEN = 0.1


class Progress:
    """Shows a bar per set with the samples kept and dropped, and at the end a table of what became of each set."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        counts = TextColumn("[green]{task.fields[kept]} kept [yellow]{task.fields[dropped]} dropped")
        self.bars = Bars("{task.description}", BarColumn(), MofNCompleteColumn(), counts, TimeElapsedColumn())
        self.manifests: list[tuple[dict, float]] = []
        self.shown_at = 0.0

    def __enter__(self) -> "Progress":
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def begin(self, name: str, total: int) -> None:
        """Open the bar of a set with about `total` samples."""
        self.task = self.bars.add_task(name, total=total, kept=0, dropped=0)
        self.began = monotonic()

    def __call__(self, kept: int, tally: Tally) -> None:
        """Show how far the set is; called for every sample, so most calls do nothing."""
        if (now := monotonic()) - self.shown_at >= SECONDS_BETWEEN:
            self.shown_at = now
            dropped = tally.dropped.total()
            self.bars.update(self.task, completed=kept + dropped, kept=kept, dropped=dropped)

    def end(self, manifest: dict) -> None:
        """Close the bar of a set."""
        kept, dropped = manifest["samples"], sum(manifest["dropped"].values())
        count = kept + dropped
        self.bars.update(self.task, completed=count, total=count, kept=kept, dropped=dropped)
        self.manifests.append((manifest, monotonic() - self.began))

    def seconds(self) -> dict[str, float]:
        """Return how long each set took, by its name."""
        return {manifest["set"]: seconds for manifest, seconds in self.manifests}

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

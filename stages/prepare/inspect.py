"""inspect: tell what is in shards, ours or anyone's."""

import json
from dataclasses import asdict
from typing import Any

from datamodules.shards.inspect import Inspection, Spread, inspect_shards


def inspect(shards: str, max_media: int = 1000, as_json: bool = False) -> None:
    """Tell what is in shards: members, counts, sizes, durations, problems, and what the manifest says.

    Args:
        shards: A folder of tars, a tar, or a pattern such as `'data/{000000..000099}.tar'`.
        max_media: Samples whose sounds and images are opened, evenly spread; everything is counted.
        as_json: Print one JSON object.

    Raises:
        FileNotFoundError: there is no shard.
        ShardError: a shard is missing, or its count disagrees with its manifest.
    """
    found = inspect_shards(shards, max_examined=max_media)
    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False))
        return
    print_found(shards, found)
    for folder, manifest in found.manifests.items():
        print_manifest(folder, manifest)
    if not found.manifests:
        print("no manifest: these shards were not made by prepare, or are single files of a set")


def print_found(shards: str, found: Inspection) -> None:
    """Print what the shards themselves hold."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    console.print(f"{shards}: {found.samples} samples in {found.shards} shards, {found.bytes / 1e6:,.1f} MB")
    table = Table("member", "samples", "smallest", "median", "largest")
    for extension, spread in found.members.items():
        sizes = (f"{size:,.0f} B" for size in (spread.least, spread.median, spread.most))
        table.add_row(f".{extension}", f"{spread.count}", *sizes)
    console.print(table)
    for extensions, count in found.kinds.items():
        console.print(f"{count} samples have {extensions}")
    for extension, sides in found.image_pixels.items():
        console.print(
            f".{extension}: {told(sides['width'], 'pixels')} wide; {told(sides['height'], 'pixels')} high"
        )
    for extension, seconds in found.sound_s.items():
        console.print(f".{extension}: {told(seconds, 's')} long")
    if found.lost:
        console.print(f"problem: {found.lost} samples are lost")
    problems = {**found.left_out, "unreadable header": found.unreadable}
    for reason, left_out in problems.items():
        if left_out.count:
            names = ", ".join(left_out.names[:5])
            console.print(f"problem: {reason}: {left_out.count} left out, the first {names}")


def told(spread: Spread, unit: str) -> str:
    """Return a spread as people read it."""
    return f"{spread.least:,g} to {spread.most:,g} {unit} (median {spread.median:,g})"


def print_manifest(folder: str, manifest: dict[str, Any]) -> None:
    """Print what the manifest of a folder says of its shards."""
    made_from = manifest.get("made_from", {})
    source = made_from.get("source", {})
    print(
        f"{folder}: made from {source.get('class_path', '?')}: {source.get('init_args', {}).get('path', '?')}"
    )
    for part in ("filters", "steps"):
        if named := [each["class_path"].rpartition(".")[2] for each in made_from.get(part, [])]:
            print(f"{part}: {', '.join(named)}")
    for reason, count in manifest.get("dropped", {}).items():
        print(f"dropped: {reason}: {count}, {', '.join(manifest['dropped_names'][reason][:5])}")

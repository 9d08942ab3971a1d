"""inspect: tell what is in shards, ours or anyone's."""

import json
from pathlib import Path

from datamodules.shards.inspect import inspect_shards
from datamodules.shards.reader import read_manifest


def inspect(shards: str, max_media: int = 1000, as_json: bool = False) -> None:
    """Tell what is in shards: members, counts, sizes, durations, problems, and what the manifest says.

    Args:
        shards: A folder of tars, a tar, or a pattern such as `'data/{000000..000099}.tar'`.
        max_media: Sounds and images to open for their durations and sizes, evenly spread; everything is counted.
        as_json: Print one JSON object.

    Raises:
        FileNotFoundError: there is no shard.
        ShardError: a shard is broken, or disagrees with its manifest.
    """
    found = inspect_shards(shards, max_media)
    manifest = read_manifest(shards) if Path(shards).is_dir() else {}
    if as_json:
        print(json.dumps({**found, "manifest": manifest or None}, ensure_ascii=False))
        return
    print_found(shards, found)
    print_manifest(manifest, found)


def print_found(shards: str, found: dict) -> None:
    """Print what the shards themselves hold."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    console.print(
        f"{shards}: {found['samples']} samples in {found['shards']} shards, {megabytes(found['bytes'])}"
    )
    table = Table("member", "samples", "smallest", "median", "largest")
    for extension, of in found["members"].items():
        table.add_row(
            f".{extension}", f"{of['count']}", *(f"{of[name]:,.0f} B" for name in ("min", "median", "max"))
        )
    console.print(table)
    for extensions, count in found["combinations"].items():
        console.print(f"{count} samples have {extensions}")
    for name, unit in (("sounds_s", "s"), ("pixels", "pixels")):
        if spread := found[name]:
            numbers = ", ".join(f"{word} {spread[word]:,g}" for word in ("min", "median", "max"))
            console.print(f"{name.removesuffix('_s')}: {numbers} {unit}")
    for extension, count in found["unreadable"].items():
        console.print(f"problem: {count} of .{extension} cannot be opened")
    for reason, left_out in found["problems"].items():
        console.print(
            f"problem: {reason}: {left_out['count']} left out, the first {', '.join(left_out['names'][:5])}"
        )


def print_manifest(manifest: dict, found: dict) -> None:
    """Print what the manifest says of them."""
    if not manifest:
        print("no manifest: these shards were not made by prepare, or are single files of a set")
        return
    made_from = manifest.get("made_from", {})
    source = made_from.get("source", {})
    print(f"made from {source.get('class_path', '?')}: {source.get('init_args', {}).get('path', '?')}")
    for part in ("filters", "steps"):
        if named := [each["class_path"].rpartition(".")[2] for each in made_from.get(part, [])]:
            print(f"{part}: {', '.join(named)}")
    for reason, count in manifest.get("dropped", {}).items():
        print(f"dropped: {reason}: {count}, {', '.join(manifest['dropped_names'][reason][:5])}")
    if manifest.get("samples") != found["samples"]:
        print(f"problem: the manifest says {manifest.get('samples')} samples")


def megabytes(num_bytes: int) -> str:
    """Return a size as people read it."""
    return f"{num_bytes / 1e6:,.1f} MB"

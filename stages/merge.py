"""Merge: an adapter that was handed over alone becomes one with the part that it was trained on."""

from pathlib import Path

from stages.cli import command


def merge(part: str, out: str, base: str | None = None, allow: list[str] | None = None) -> None:
    """Write the plain part that an un-merged one and its base amount to.

    Args:
        part: folder of the un-merged part, or CHECKPOINT#part of a run that trains an adapter.
        out: folder of the plain part; it must not exist.
        base: folder of the part that the adapter was trained on, where that has moved since.
        allow: packages outside this project whose classes a part may name.

    Raises:
        ValueError: when there is no adapter, its base is another, or `out` exists.
    """
    from modules import adapters, parts

    if Path(out).exists():
        raise ValueError(f"{out} exists: choose another folder, or remove it first")
    plain = adapters.merge(part, base, allow)
    assert plain.provenance is not None
    parts.save(plain, out, merged_from=plain.provenance.fingerprint)
    print(f"{out}: {type(plain).__name__}, plain")


if __name__ == "__main__":
    command(merge)

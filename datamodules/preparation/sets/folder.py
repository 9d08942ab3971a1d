"""One set of shards: from a recipe to a folder of tars, manifest and index that appears when whole.

Each shard is committed in four steps: the tar takes its name, its index, the journal's entry, all synced. Killed
between any two of them, the next run makes that one shard again, from the same samples, to the same bytes.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from datamodules.preparation.engines.engine import Engine
from datamodules.preparation.recipe import Recipe
from datamodules.preparation.sets.journal import FOLDER, LOCK
from datamodules.preparation.sets.lock import locked
from datamodules.preparation.sets.making import MANIFEST, SPILL, Making
from datamodules.preparation.sets.tally import Tally
from datamodules.shards.whole import FULL, DiskFullError, no_room, sync_folder


def prepare_set(
    folder: Path,
    recipe: Recipe,
    description: dict,
    engine: Engine,
    progress: Callable[[int, Tally], None],
    total: int,
) -> dict:
    """Write one set into `folder` and return its manifest; until it is whole it stands under another name.

    What an earlier run left there of the same set is gone on with, what it left of another is thrown away.

    Args:
        folder: where the set goes; not there yet, or empty.
        recipe: the source and what is done to its samples.
        description: `recipe.description()`, kept in the manifest so that a later run knows the set again.
        engine: examines samples; knows the set under `folder.name`.
        progress: called now and then with the number of samples kept and the tally.
        total: about how many items the source has, `len(recipe.source)`.

    Raises:
        ValueError: no sample is left, or another process prepares this set.
        DiskFullError: there is no room; the same command goes on once there is.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    description = json.loads(json.dumps(description))
    with explained(unfinished), locked(unfinished):
        if is_prepared(folder, description):  # by a run that held the lock until now
            shutil.rmtree(unfinished)
            return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not is_complete(unfinished, description):
            making = Making(unfinished, recipe, description)
            making.make_shards(engine, folder.name, total, progress)
            making.finish(folder.name)
        for name in (FOLDER, SPILL):
            shutil.rmtree(unfinished / name, ignore_errors=True)
        sync_folder(unfinished)
        os.replace(unfinished, folder)
        sync_folder(folder.parent)
        (folder / LOCK).unlink(missing_ok=True)
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def is_done(folder: Path, description: dict) -> bool:
    """Return whether the set is there; removes the lock of a run that was killed after it gave the folder its name.

    Raises:
        ValueError: the folder holds something else.
    """
    is_there = is_prepared(folder, description)
    if is_there:
        (folder / LOCK).unlink(missing_ok=True)
    return is_there


def is_complete(unfinished: Path, description: dict) -> bool:
    """Return whether a run wrote the manifest, which it does last, and ended before it gave the folder its name."""
    try:
        manifest = json.loads((unfinished / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return manifest["made_from"] == description


def is_prepared(folder: Path, description: dict) -> bool:
    """Return whether `folder` holds the very set that `description` asks for.

    Raises:
        ValueError: the folder holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise ValueError(
            f"{folder} exists without a manifest.json; expected a prepared set, or nothing. Move it away."
        )
    found = json.loads(manifest.read_text(encoding="utf-8")).get("made_from", {})
    expected = json.loads(json.dumps(description))
    if found != expected:
        raise ValueError(
            f"{folder} was prepared otherwise: {'; '.join(differences(found, expected))}. "
            "Remove the folder to prepare it anew, or choose another."
        )
    return True


def differences(found: object, expected: object, name: str = "") -> list[str]:
    """Return what differs between two nested plain values, a line each."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = sorted(found.keys() | expected.keys())
        nested = (differences(found.get(key), expected.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
        return [line for lines in nested for line in lines]
    return [] if found == expected else [f"{name}: found {found!r}, expected {expected!r}"]


class explained:
    """Says on which disk there is no room, and that nothing whole is lost."""

    def __init__(self, unfinished: Path) -> None:
        self.unfinished = unfinished

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno in FULL:
            error = no_room(Path(error.filename or self.unfinished / "a file"), None, error)
        if isinstance(error, DiskFullError):
            whole = len(list((self.unfinished / FOLDER).glob("[0-9]*.json")))
            raise DiskFullError(
                f"{error}. {whole} whole shards stay in {self.unfinished}. "
                "Make room and run the same command again: it goes on behind them."
            ) from error

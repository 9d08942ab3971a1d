"""Files that appear under their names only when they are whole and on the disk."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says when there is no room: on the disk, in the quota, in the largest file allowed."""


class DiskFullError(OSError):
    """There is no room for a file; the message names it, its size, and what is free."""


@contextmanager
def whole(path: Path, num_bytes: int | None = None) -> Iterator[IO[bytes]]:
    """Open a file to write; at the end it is synced and takes its name. On an error it is removed.

    Args:
        path: the name it gets; its folder exists.
        num_bytes: of the file, where known; for the message when there is no room.

    Raises:
        DiskFullError: there is no room.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)  # without it the name may be gone after a power cut
    except OSError as error:
        if error.errno in FULL:
            raise no_room(path, num_bytes, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        DiskFullError: there is no room.
    """
    with whole(path, len(data)) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def no_room(path: Path, num_bytes: int | None, error: OSError) -> DiskFullError:
    """Return the error that tells what was to be written where."""
    free = shutil.disk_usage(path.parent).free
    size = "" if num_bytes is None else f" of {num_bytes:,} bytes"
    return DiskFullError(
        f"no room for {path}{size} ({os.strerror(error.errno or 0)}; {free:,} bytes are free on that disk)"
    )

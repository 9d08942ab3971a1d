"""The lock on a set that is being made: two runs never write into one folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datamodules.preparation.sets.journal import LOCK


@contextmanager
def locked(unfinished: Path) -> Iterator[None]:
    """Hold the folder of an unfinished set, made when missing; the system lets go when this process ends in any way.

    The lock is of the kind that worker processes do not inherit (lockf, not flock): those that outlive a killed run
    for a moment do not keep the next one out. It holds on NFS as well.

    Raises:
        ValueError: another process holds it.
    """
    unfinished.mkdir(parents=True, exist_ok=True)
    with open(unfinished / LOCK, "a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read(100).strip() or "another process"
            raise ValueError(
                f"{unfinished} is being written by {holder}; expected one run at a time. "
                "Wait until it has ended, or choose another folder."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield

"""LocalEngine: examines samples in worker processes of this machine, a bounded number ahead."""

import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import count, islice
from multiprocessing import parent_process
from pathlib import Path

from datamodules.preparation.engines.examining import Examined, Examiner
from datamodules.sources.source import Dropped, Sample, Slice, read

UNITS_PER_WORKER = 8
"""So many pieces of work or more for each worker, so that none is left with all of the slow ones."""
MAX_UNIT_ITEMS = 64
UNITS_AHEAD = 4
"""For each worker, done or in work while the first is awaited: what the main process holds in memory."""
MAX_UNIT_BYTES = 8 << 20
"""What a piece of work makes beyond this goes through a file: an hour of video becomes hundreds of samples."""
DIED = "kills its worker process"

Unit = tuple[int, Sequence[Sample | Dropped]]
_examiners: dict[str, Examiner] = {}  # in a worker process: of every set, by its name


class LocalEngine:
    """A pool of processes. One that a sample kills is replaced, and the sample dropped.

    Args:
        examiners: of every set, by its name.
        workers: number of processes.
    """

    def __init__(self, examiners: Mapping[str, Examiner], workers: int) -> None:
        self.examiners, self.workers = dict(examiners), max(1, workers)

    def __enter__(self) -> "LocalEngine":
        self.pool = self.start(self.workers)
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def start(self, workers: int) -> ProcessPoolExecutor:
        """Return a pool whose processes know every set, once, instead of with each piece of work."""
        return ProcessPoolExecutor(workers, initializer=start_worker, initargs=(self.examiners,))

    def examine(
        self, name: str, items: Iterable[Sample | Dropped], first: int, total: int, spill: Path
    ) -> Iterator[Examined]:
        """Yield what comes of items, in order. See `Engine`."""
        waiting = units(items, first, unit_size(total, self.workers))
        ahead: deque[tuple[Unit, Future[list[Examined]]]] = deque()
        spill.mkdir(parents=True, exist_ok=True)
        while True:
            for unit in islice(waiting, UNITS_AHEAD * self.workers - len(ahead)):
                ahead.append((unit, self.submit(name, unit, spill)))
            if not ahead:
                return
            unit, future = ahead.popleft()
            try:
                results = future.result()
            except BrokenProcessPool:
                self.pool.shutdown()
                results = self.one_by_one(name, unit, spill)
                self.pool = self.start(self.workers)
                ahead = deque((unit, self.submit(name, unit, spill)) for unit, _ in ahead)
            yield from fetched(results)

    def submit(self, name: str, unit: Unit, spill: Path) -> "Future[list[Examined]]":
        """Start a piece of work; where the pool is broken, the answer says so, as it does of those in work."""
        try:
            return self.pool.submit(examine_unit, name, unit, spill)
        except BrokenProcessPool as error:
            broken: Future[list[Examined]] = Future()
            broken.set_exception(error)
            return broken

    def one_by_one(self, name: str, unit: Unit, spill: Path) -> list[Examined]:
        """Examine each item in a process of its own, and drop those that it does not survive.

        Decoders of strangers' media are native code; a killed process says nothing of which item it was, nor
        whether it was of this piece of work at all.
        """
        results: list[Examined] = []
        for number, item in enumerate(unit[1], start=unit[0]):
            with self.start(1) as alone:
                try:
                    results += alone.submit(examine_unit, name, (number, [item]), spill).result()
                except BrokenProcessPool:
                    results.append(Examined(number, Dropped(item.name, DIED)))
        return results


def unit_size(total: int, workers: int) -> int:
    """Return how many items make a piece of work: few where there are few, since those are often large."""
    return min(max(total // (UNITS_PER_WORKER * workers), 1), MAX_UNIT_ITEMS)


def units(items: Iterable[Sample | Dropped], first: int, size: int) -> Iterator[Unit]:
    """Yield items in pieces of work, each with the number of its first item."""
    left = iter(items)
    for number in count(first, size):
        unit = list(islice(left, size))
        if not unit:
            return
        yield number, unit


def start_worker(examiners: dict[str, Examiner]) -> None:
    """Give a worker process every set, and let it end with the main process, however that ends."""
    _examiners.update(examiners)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the main process, and that ends its workers
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Wait until the main process is gone; killed, it cannot tell its workers, which would wait for work for ever."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def examine_unit(name: str, unit: Unit, spill: Path) -> list[Examined]:
    """Examine a few items in a worker process; the members beyond what should be sent in one go stay in a file."""
    first, items = unit
    results, num_bytes = [], 0
    path = spill / f"{first}-{os.getpid()}"
    for examined in _examiners[name](first, items):
        sample = examined.item
        if isinstance(sample, Sample):
            num_bytes += sum(map(len, sample.members.values()))
            if num_bytes > MAX_UNIT_BYTES:
                examined = examined._replace(item=spilled(sample, path))
        results.append(examined)
    return results


def spilled(sample: Sample, path: Path) -> Sample:
    """Return a sample with its members as slices of a file that they are added to."""
    members = {}
    with open(path, "ab") as file:
        for suffix, data in sample.members.items():
            members[suffix] = Slice(path, file.tell(), len(data))
            file.write(data)
    return replace(sample, members=members)


def fetched(results: Iterable[Examined]) -> Iterator[Examined]:
    """Yield results with all members as bytes, and remove the file that some came through."""
    files = set()
    for examined in results:
        sample = examined.item
        if isinstance(sample, Sample) and any(
            isinstance(member, Slice) for member in sample.members.values()
        ):
            files |= {member.path for member in sample.members.values()}
            members = {suffix: read(member) for suffix, member in sample.members.items()}
            examined = examined._replace(item=replace(sample, members=members))
        yield examined
    for file in files:
        file.unlink()

"""RayEngine: examines samples on many machines, as a Ray Data pipeline that keeps their order."""

import logging
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from datamodules.preparation.engines.examining import Examined, Examiner
from datamodules.preparation.engines.local import unit_size, units
from datamodules.sources.source import Dropped, Sample

UNITS_PER_WINDOW = 1024
"""Pieces of work given to Ray at a time: the source is never listed as a whole."""
STORE_BYTES = 1 << 30
PACKAGE = Path(__file__).parents[2]


class RayEngine:
    """The same work as LocalEngine's, as tasks of a Ray cluster. Sources must be on a file system that all nodes see.

    Args:
        examiners: of every set, by its name.
        workers: CPUs of the local instance; a cluster has its own number.
        address: of a cluster, such as `auto` or `ray://head:10001`; by default an instance of its own, on this
            machine, that ends with the run.

    Raises:
        ValueError: Ray is not installed, or the cluster is not there.
    """

    def __init__(self, examiners: Mapping[str, Examiner], workers: int, address: str | None = None) -> None:
        self.examiners, self.workers, self.address = dict(examiners), max(1, workers), address

    def __enter__(self) -> "RayEngine":
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when Ray starts: nothing is reported to anyone
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise ValueError(
                f"engine is ray, and {error.name} is not installed; run: pip install 'trivium[ray]'"
            ) from error
        shared: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.address is None:
            ray.init(
                num_cpus=self.workers, object_store_memory=STORE_BYTES, include_dashboard=False, **shared
            )
        else:
            try:
                # The nodes need not have this package installed, only what it imports.
                ray.init(self.address, runtime_env={"py_modules": [str(PACKAGE)]}, **shared)
            except ConnectionError as error:
                raise ValueError(
                    f"found no Ray cluster at {self.address} that lets us in ({error}); check the address, and whether "
                    "the cluster asks for a token: RAY_AUTH_MODE=token makes Ray send its own"
                ) from error
            self.workers = int(ray.cluster_resources().get("CPU", 1))
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of every window
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        return self

    def __exit__(self, *error: object) -> None:
        import ray

        ray.shutdown()

    def examine(
        self, name: str, items: Iterable[Sample | Dropped], first: int, total: int, spill: Path
    ) -> Iterator[Examined]:
        """Yield what comes of items, in order. See `Engine`; Ray has its own store in place of `spill`."""
        import ray.data

        examine_row = RowExaminer(self.examiners[name])
        waiting = units(items, first, unit_size(total, self.workers))
        while window := list(islice(waiting, UNITS_PER_WINDOW)):
            rows = [{"unit": pickle.dumps(unit)} for unit in window]
            given = ray.data.from_items(rows, override_num_blocks=len(rows))
            for row in given.flat_map(examine_row).iter_rows():
                yield pickle.loads(row["examined"])  # written a moment ago by a task of this very run


class RowExaminer:
    """What a task does with a row: one piece of work in, one row for each thing that comes of it."""

    def __init__(self, examiner: Examiner) -> None:
        self.examiner = examiner

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, bytes]]:
        first, items = pickle.loads(row["unit"])
        for examined in self.examiner(first, items):
            yield {"examined": pickle.dumps(examined, protocol=5)}

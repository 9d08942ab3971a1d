"""IndexedSamples: shards read by position as the first stage of a webdataset pipeline."""

import itertools
from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from datamodules.shards.order import Order, Positions
from datamodules.shards.reader import ShardReader


class IndexedSamples(IterableDataset):
    """Raw samples from a position on, `{"__key__", "__url__", extension: bytes}`, for webdataset's filters behind it.

    Every rank and worker takes each n-th position. Filters that drop or regroup samples move the borders of batches:
    to resume exactly, note the position behind what was trained on (`__position__`) and begin there.

    Args:
        reader: the shards.
        seed: of the order; None reads the shards once in their own.
        start: global position to begin at.
        rank: of this process.
        world_size: processes.
    """

    def __init__(
        self,
        reader: ShardReader,
        *,
        seed: int | None = None,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.reader, self.seed, self.start = reader, seed, start
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        first = self.start + self.rank * count + number
        step = self.world_size * count
        order: Positions = Order(len(self.reader), seed=self.seed or 0, shuffle=self.seed is not None)
        for place in (
            range(first, len(self.reader), step) if self.seed is None else itertools.count(first, step)
        ):
            position = int(order.span(place, place + 1)[0])
            yield {
                "__key__": self.reader.key(position),
                "__url__": str(self.reader.tars[self.reader.locate(position)[0]]),
                "__position__": place,
                **self.reader.sample(position),
            }

"""Sharded: FSDP2 over all ranks, or over those that tensors are not split over."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy


class Sharded(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy, whose number of data-parallel ranks follows from all ranks.

    How a model is sharded and split stands in `modules/parallel.py`. It runs on GPUs (nccl) and on CPUs (gloo).

    Args:
        tensor_parallel_size: ranks that share a batch and split each product of the language model; 1 shards alone.
        timeout_minutes: how long a rank waits for the others before it gives up.
    """

    def __init__(self, tensor_parallel_size: int = 1, timeout_minutes: float = 30.0) -> None:
        super().__init__(
            tensor_parallel_size=tensor_parallel_size, timeout=timedelta(minutes=timeout_minutes)
        )
        self.split = tensor_parallel_size

    def setup_environment(self) -> None:
        """Divide the ranks.

        Raises:
            ValueError: when they do not divide by `tensor_parallel_size`.
        """
        ranks = self.num_nodes * self.num_processes
        if ranks % self.split:
            raise ValueError(
                f"tensor_parallel_size is {self.split}, which does not divide the {ranks} ranks "
                f"({self.num_nodes} nodes of {self.num_processes}): expected a divisor"
            )
        self._data_parallel_size = ranks // self.split
        super().setup_environment()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Load weights and optimiser states from a file or from shards, however they were spread when saved.

        Raises:
            ShardsError: as `modules.restoring.restore` does.
            StateError: likewise.
        """
        from modules.restoring import restore  # costs a second

        assert self.model is not None
        return restore(Path(self.broadcast(str(checkpoint_path))), self.model, self.optimizers)

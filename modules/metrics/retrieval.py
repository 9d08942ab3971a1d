"""Recall@k of retrieval between two modalities, exact over any batch size and any number of ranks."""

from typing import Final

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

TIE: Final = 1e-6
"""Cosine similarities of float32 unit vectors that are closer than this cannot be told apart: a tie."""


class RetrievalRecall(Metric):
    """How often a row's partner is among its k most similar rows, in both directions.

    Ties count against: vectors that are all alike have a recall of 0 (as long as there are more than k), not
    of 1. Similarities are computed a block of queries at a time, never as one matrix of all against all.

    Args:
        ks: the k of each recall.
        block_rows: queries compared at once.

    Example:
        >>> metric = RetrievalRecall(ks=(1,))
        >>> metric.update(torch.eye(4), torch.eye(4).roll(1, 0))
        >>> metric.compute()["forward"]["recall_at_1"]
        tensor(0.)
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, ks: tuple[int, ...] = (1, 5), block_rows: int = 1024) -> None:
        super().__init__()
        self.ks, self.block_rows = ks, block_rows
        # Flat, so that a rank without a single row gathers with the others: they all have one dimension.
        self.add_state("first", default=[], dist_reduce_fx="cat")
        self.add_state("second", default=[], dist_reduce_fx="cat")
        self.add_state("dim", default=torch.tensor(0), dist_reduce_fx="max")

    def update(self, first: Tensor, second: Tensor) -> None:
        """Add unit vectors (rows, dim) of two modalities; row i of one belongs to row i of the other.

        Raises:
            ValueError: when the two differ in shape.
        """
        if first.shape != second.shape or first.ndim != 2:
            raise ValueError(
                f"first is {tuple(first.shape)} and second {tuple(second.shape)}: "
                "expected (rows, dim), the same of both"
            )
        self.first.append(first.detach().float().flatten())
        self.second.append(second.detach().float().flatten())
        if len(first):
            self.dim = torch.full_like(self.dim, first.shape[1])

    def compute(self) -> dict[str, dict[str, Tensor]]:
        """Return `recall_at_<k>` of `forward` (first asks, second is searched) and of `backward`.

        Raises:
            ValueError: before the first row.
        """
        if not self.dim:
            raise ValueError("no row was given yet: call update with unit vectors (rows, dim) first")
        first = dim_zero_cat(self.first).view(-1, int(self.dim))
        second = dim_zero_cat(self.second).view(-1, int(self.dim))
        directions = {"forward": (first, second), "backward": (second, first)}
        return {name: self._recalls(ranks(*pair, self.block_rows)) for name, pair in directions.items()}

    def _recalls(self, rank: Tensor) -> dict[str, Tensor]:
        return {f"recall_at_{k}": (rank < k).double().mean() for k in self.ks}


def ranks(queries: Tensor, candidates: Tensor, block_rows: int = 1024) -> Tensor:
    """Return how many wrong candidates are at least as similar to each query as its own: (rows,), int64.

    Args:
        queries: unit vectors (rows, dim).
        candidates: unit vectors (rows, dim); candidate i is the right one for query i.
        block_rows: queries compared at once.
    """
    candidates = candidates.double()  # so that the order of summation cannot decide a rank
    blocks = []
    for start in range(0, len(queries), block_rows):
        block = queries[start : start + block_rows].double()
        similarity = block @ candidates.T  # (block_rows, rows)
        own = (block * candidates[start : start + len(block)]).sum(1, keepdim=True)
        blocks.append((similarity > own - TIE).sum(1) - 1)  # its own is not a wrong one
    return torch.cat(blocks) if blocks else torch.zeros(0, dtype=torch.long, device=queries.device)

"""Recall@k of retrieval between two modalities, exact over any batch size and any number of ranks."""

from typing import Final

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

TIE: Final = 1e-6
"""Cosine similarities of float32 unit vectors that are closer than this cannot be told apart: a tie."""


class RetrievalRecall(Metric):
    """How often a row's partner is among its k most similar candidates, in both directions.

    Rows may share their content: a caption of two pictures, an item that many users took. It is then one candidate,
    and right for every row that has it; right as well is whatever else the query's own content goes with.

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
        self.add_state("contents", default=[], dist_reduce_fx="cat")
        self.add_state("dim", default=torch.tensor(0), dist_reduce_fx="max")

    def update(self, first: Tensor, second: Tensor, contents: Tensor | None = None) -> None:
        """Add unit vectors (rows, dim) of two modalities; row i of one belongs to row i of the other.

        Args:
            first: of one modality.
            second: of the other.
            contents: (rows, 2), int64, equal where the content of `first`, of `second` is; none is by default. All
                updates have it or none has.

        Raises:
            ValueError: when shapes disagree.
        """
        if first.shape != second.shape or first.ndim != 2:
            raise ValueError(
                f"first is {tuple(first.shape)} and second {tuple(second.shape)}: "
                "expected (rows, dim), the same of both"
            )
        if contents is not None and contents.shape != (len(first), 2):
            raise ValueError(f"contents is {tuple(contents.shape)}, expected ({len(first)}, 2)")
        self.first.append(first.detach().float().flatten())
        self.second.append(second.detach().float().flatten())
        self.contents.append(torch.zeros(0).long() if contents is None else contents.flatten())
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
        contents = dim_zero_cat(self.contents).view(-1, 2)
        if not len(contents):  # all different
            contents = torch.arange(len(first), device=first.device).unsqueeze(1).expand(-1, 2)
        if len(contents) != len(first):
            raise ValueError(
                f"contents of {len(contents)} rows, expected those of all {len(first)} or of none"
            )
        directions = {"forward": (first, second, contents), "backward": (second, first, contents.flip(1))}
        return {
            name: self._recalls(ranks(*given, block_rows=self.block_rows))
            for name, given in directions.items()
        }

    def _recalls(self, rank: Tensor) -> dict[str, Tensor]:
        return {f"recall_at_{k}": (rank < k).double().mean() for k in self.ks}


def ranks(
    queries: Tensor, candidates: Tensor, contents: Tensor | None = None, *, block_rows: int = 1024
) -> Tensor:
    """Return how many wrong candidates are at least as similar to each query as the nearest right one: (rows,), int64.

    Args:
        queries: unit vectors (rows, dim).
        candidates: unit vectors (rows, dim); candidate i is right for query i.
        contents: (rows, 2), int64: of each query and of each candidate, equal where they are the same. Candidates of
            one content count once, and all are right that stand beside a query of the same content. By default no two
            are the same.
        block_rows: queries compared at once.
    """
    if contents is None:
        contents = torch.arange(len(queries), device=queries.device).unsqueeze(1).expand(-1, 2)
    asking = contents[:, 0]
    _, asked = contents[:, 1].unique(return_inverse=True)  # (rows,): number of each candidate's content
    first = torch.full_like(asked, len(asked)).scatter_reduce(
        0, asked, torch.arange(len(asked), device=asked.device), "amin"
    )
    first = first[: int(asked.max()) + 1] if len(asked) else first  # (contents,): the row it first stands in
    candidates = candidates[first].double()  # so that the order of summation cannot decide a rank
    blocks = []
    for start in range(0, len(queries), block_rows):
        block = slice(start, start + block_rows)
        similarity = queries[block].double() @ candidates.T  # (block_rows, contents)
        row, column = (asking[block].unsqueeze(1) == asking).nonzero(as_tuple=True)
        is_right = torch.zeros_like(similarity, dtype=torch.bool)
        is_right[row, asked[column]] = True
        nearest = similarity.masked_fill(~is_right, -torch.inf).amax(1, keepdim=True)
        blocks.append(((similarity > nearest - TIE) & ~is_right).sum(1))
    return torch.cat(blocks) if blocks else torch.zeros(0, dtype=torch.long, device=queries.device)

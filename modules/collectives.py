"""Collectives: what a loss over all ranks needs.

One convention holds throughout. DDP averages the gradients of all ranks, so a loss that every rank knows whole
must give a rank's own rows world_size times their true gradient, and a parameter that every rank holds its true one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor

_group: dist.ProcessGroup | None = None  # None: all ranks
_COUNTS: ContextVar[list[Tensor] | None] = ContextVar("counts", default=None)


def use_group(group: dist.ProcessGroup | None) -> None:
    """Say which ranks have samples of their own: where tensors are split, several ranks share a batch."""
    global _group
    _group = group


def world() -> tuple[int, int]:
    """Return this process's rank among those with samples of their own, and their number; (0, 1) for one process."""
    return _rank_and_size(_group)


def all_ranks() -> tuple[int, int]:
    """Return this process's rank among all of the run, and their number; (0, 1) for one process."""
    return _rank_and_size(None)


def gather_counts(counts: Tensor) -> list[list[int]]:
    """Return every rank's counts (k,), int64, as plain numbers by rank."""
    if world()[1] == 1:
        return [counts.tolist()]
    everyone = [torch.empty_like(counts) for _ in range(world()[1])]
    dist.all_gather(everyone, counts, group=_group)
    return [theirs.tolist() for theirs in everyone]


def gather_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """Concatenate the rows (counts[rank], …) of all ranks, without gradients: (sum of counts, …).

    Args:
        rows: this rank's; it may have none.
        counts: rows of every rank.
    """
    if len(counts) == 1:
        return rows
    padded = rows.new_zeros(max(counts), *rows.shape[1:])  # a collective takes equal blocks
    padded[: len(rows)] = rows
    blocks = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(blocks, padded, group=_group)
    return torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)])


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Add up a tensor of equal shape on all ranks, in place and without gradients."""
    if world()[1] > 1:
        dist.all_reduce(tensor, group=_group)
    return tensor


def logsumexp_over_ranks(tensor: Tensor) -> Tensor:
    """Return the log of the sum over ranks of exp(tensor), without gradients."""
    if world()[1] == 1:
        return tensor
    everyone = [torch.empty_like(tensor) for _ in range(world()[1])]
    dist.all_gather(everyone, tensor.contiguous(), group=_group)
    return torch.stack(everyone).logsumexp(0)


def global_mean(total: Tensor, count: int | Tensor) -> Tensor:
    """Return a sum divided by the number of its terms on the average rank.

    The mean over ranks of what this returns is the mean over all terms of all ranks, and so are the gradients that
    DDP averages: a rank with few terms weighs little. Zero, with its graph, where no rank has a term.

    Args:
        total: this rank's sum, a scalar.
        count: how many terms it has.
    """
    terms = sum_over_ranks(torch.as_tensor(count, dtype=torch.float32, device=total.device).clone())
    counts = _COUNTS.get()
    if counts is not None:
        counts.append(terms)
    return total / (terms / world()[1]).clamp(min=1 / world()[1])


@contextmanager
def counted() -> Iterator[list[Tensor]]:
    """Collect the number of terms, over all ranks, of every `global_mean` that is taken within.

    Who accumulates the gradients of several batches needs them: the mean over all terms of all batches weighs each
    batch by how many it has.
    """
    counts: list[Tensor] = []
    token = _COUNTS.set(counts)
    try:
        yield counts
    finally:
        _COUNTS.reset(token)


def _rank_and_size(group: dist.ProcessGroup | None) -> tuple[int, int]:
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)

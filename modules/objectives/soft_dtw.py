"""Soft-DTW: how well two sequences go together under the best monotone alignment, differentiable."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def soft_dtw(cost: Tensor, first_lengths: Tensor, second_lengths: Tensor, gamma: float = 1.0) -> Tensor:
    """Return the soft minimum over all monotone alignments of their summed costs: (batch,).

    Soft-DTW (Cuturi & Blondel, arXiv:1703.01541, eq. 2 and algorithms 1 and 2): -gamma log sum exp(-cost / gamma) over
    all paths from the first cell to the last by steps right, down or both. Cells of one anti-diagonal do not depend
    on each other, so n + m - 1 operations over whole diagonals fill the table, forward and backward. It is below the
    cheapest path's cost and may be negative. A pair of which one sequence is empty gives zero.

    Args:
        cost: (batch, n, m), float: of matching step i of the first with step j of the second.
        first_lengths: (batch,), int64: real steps of the first, up to n; what lies behind them is not read.
        second_lengths: (batch,), int64: real steps of the second, up to m.
        gamma: softness; towards zero it becomes dynamic time warping.

    Raises:
        ValueError: when gamma is not positive, or a length is larger than the table.
    """
    if not gamma > 0:
        raise ValueError(f"gamma is {gamma}, expected more than 0; the smaller, the harder the minimum")
    for lengths, size in ((first_lengths, cost.shape[1]), (second_lengths, cost.shape[2])):
        if len(lengths) and int(lengths.max()) > size:
            raise ValueError(f"a sequence of {int(lengths.max())} steps in a table of {size}")
    return _SoftDTW.apply(cost, first_lengths, second_lengths, gamma)


class _SoftDTW(torch.autograd.Function):
    """Tables are kept by anti-diagonal: entry (k, i) is cell (i, k - i)."""

    @staticmethod
    def forward(
        ctx: Any, cost: Tensor, first_lengths: Tensor, second_lengths: Tensor, gamma: float
    ) -> Tensor:
        batch, n, m = cost.shape
        ctx.shape, ctx.gamma, ctx.dtype = cost.shape, gamma, cost.dtype
        if 0 in cost.shape:
            return cost.new_zeros(batch)
        real = _within(n, first_lengths).unsqueeze(2) & _within(m, second_lengths).unsqueeze(1)
        skewed = _skew(cost.float() if cost.dtype.itemsize < 4 else cost, real)  # (n + m - 1, batch, n)
        # Two diagonals of infinity stand before the first, one cell of it before each diagonal.
        table = skewed.new_full((n + m + 1, batch, n + 1), torch.inf)
        table[0, :, 0] = 0
        for k in range(n + m - 1):
            before = torch.stack((table[k + 1, :, :-1], table[k + 1, :, 1:], table[k, :, :-1]))
            table[k + 2, :, 1:] = skewed[k] - gamma * torch.logsumexp(before / -gamma, 0)
        whole = (first_lengths > 0) & (second_lengths > 0)
        last = (first_lengths + second_lengths).clamp(min=2), torch.arange(batch, device=cost.device)
        value = table[last[0], last[1], first_lengths]
        ctx.save_for_backward(skewed, table, first_lengths, *last, whole)
        return torch.where(whole, value, 0).to(cost.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        batch, n, m = ctx.shape
        if 0 in ctx.shape:
            return gradient.new_zeros(ctx.shape), None, None, None
        skewed, table, first_lengths, diagonal, item, whole = ctx.saved_tensors
        # One more diagonal and cell of zeros behind the table, which nothing comes back from.
        share = skewed.new_zeros(n + m + 3, batch, n + 2)
        share[diagonal, item, first_lengths] = torch.where(whole, gradient, 0).to(share)
        soft = table[2:, :, 1:] - skewed  # what a cell took from those before it: their soft minimum
        for k in reversed(range(n + m - 1)):
            here = table[k + 2, :, 1:]
            arrived = share[k + 2, :, 1:-1]
            for ahead, down in ((1, 0), (1, 1), (2, 1)):  # right, down, both
                if k + ahead >= n + m - 1:
                    continue
                taken = soft[k + ahead, :, down:]
                weight = ((taken - here[:, : n - down]) / ctx.gamma).exp()
                came = share[k + ahead + 2, :, 1 + down : n + 1]
                # Beyond the parallelogram of the skewed table lie inf - inf and nothing that counts.
                arrived[:, : n - down] += torch.where(came != 0, weight * came, 0)
        return _unskew(share[2 : n + m + 1, :, 1:-1], m).to(ctx.dtype), None, None, None


def _within(size: int, lengths: Tensor) -> Tensor:
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def _skew(cost: Tensor, real: Tensor) -> Tensor:
    """Return (n + m - 1, batch, n) with infinity where a diagonal leaves the table, zeros behind the lengths."""
    batch, n, m = cost.shape
    padded = cost.new_full((batch, n, m + n), torch.inf)
    padded[:, :, :m] = torch.where(real, cost, 0)
    # Read with rows one shorter than they are, row i starts i columns further right.
    return padded.flatten(1)[:, : n * (m + n - 1)].view(batch, n, m + n - 1).permute(2, 0, 1).contiguous()


def _unskew(table: Tensor, m: int) -> Tensor:
    """Return cells (batch, n, m) of a skewed table (n + m - 1, batch, n)."""
    diagonals, batch, n = table.shape
    padded = table.new_zeros(batch, n * (diagonals + 1))
    padded[:, : n * diagonals] = table.permute(1, 2, 0).reshape(batch, -1)
    return padded.view(batch, n, diagonals + 1)[:, :, :m]

"""InfoNCE's and SigLIP's sums over all pairs of rows, in tiles: no batch x batch matrix is ever kept.

Shapes: rows i of `first` and `second` belong together; a rank has counts[rank] of them, all ranks n. A rank computes
the logits of its rows of `first` against the rows of `second` of all ranks, one tile (tile, tile) at a time in
buffers that are used again, so memory is linear in the batch and every logit is computed on one rank alone.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from modules.collectives import gather_rows, logsumexp_over_ranks, sum_over_ranks, world


class SymmetricCrossEntropy(torch.autograd.Function):
    """Cross-entropy of rows and of columns of scale x first @ second.T against its diagonal, averaged.

    `apply(first, second, scale, counts, tile)` returns the scalar. The forward keeps the log-sum-exp of the negatives
    of every row and column (found online, arXiv:1805.02867); the backward computes each tile anew. Four products of
    matrices in all, where one that keeps its logits takes six: both directions share each tile.
    """

    @staticmethod
    def forward(
        ctx: Any, first: Tensor, second: Tensor, scale: Tensor, counts: list[int], tile: int
    ) -> Tensor:
        first, second = _working(first, second)
        everyone = gather_rows(second, counts)
        by_row = first.new_full((len(first),), -torch.inf)
        by_column = first.new_full((len(everyone),), -torch.inf)
        for rows, columns, negatives, scratch in _tiles(first, everyone, scale, counts, tile):
            by_row[rows] = torch.logaddexp(by_row[rows], _logsumexp(negatives, 1, scratch))
            by_column[columns] = torch.logaddexp(by_column[columns], _logsumexp(negatives, 0, scratch))
        by_column, mine = logsumexp_over_ranks(by_column), _mine(counts)
        positive = scale * (first * second).sum(1)
        # log(exp(x) + exp(y)) - y is softplus(x - y), whose small values keep all their digits.
        ahead = torch.stack((by_row - positive, by_column[mine] - positive))
        loss = sum_over_ranks(softplus(ahead).sum()) / (2 * max(1, sum(counts)))
        by_row = torch.logaddexp(by_row, positive)
        by_column = torch.logaddexp(by_column, gather_rows(positive, counts))
        ctx.save_for_backward(first, second, everyone, scale, by_row, by_column, ahead.sigmoid().sum(0))
        ctx.counts, ctx.tile = counts, tile
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        first, second, everyone, scale, by_row, by_column, pull = ctx.saved_tensors
        for_first, for_everyone = torch.zeros_like(first), torch.zeros_like(everyone)
        for rows, columns, negatives, scratch in _tiles(first, everyone, scale, ctx.counts, ctx.tile):
            push = torch.sub(negatives, by_row[rows].unsqueeze(1), out=scratch).exp_()
            push.add_(negatives.sub_(by_column[columns]).exp_())
            for_first[rows].addmm_(push, everyone[columns])
            for_everyone[columns].addmm_(push.T, first[rows])
        share = gradient / (2 * max(1, sum(ctx.counts)))
        for_first, for_second, for_scale = _finish(for_first, for_everyone, pull, first, second, ctx.counts)
        factor = share * scale * world()[1]
        return for_first.mul_(factor), for_second.mul_(factor), share * for_scale, None, None


class PairwiseSigmoid(torch.autograd.Function):
    """The sum over all pairs of -log sigmoid(+-(scale x first @ second.T + bias)), plus on the diagonal, over n.

    `apply(first, second, scale, bias, counts, tile)` returns the scalar. A pair's gradient needs no other pair, so
    the forward takes it from the same tile and the backward only multiplies: three products of matrices in all.
    """

    @staticmethod
    def forward(
        ctx: Any, first: Tensor, second: Tensor, scale: Tensor, bias: Tensor, counts: list[int], tile: int
    ) -> Tensor:
        first, second = _working(first, second)
        everyone = gather_rows(second, counts)
        trains = any(ctx.needs_input_grad)
        positive = scale * (first * second).sum(1) + bias
        pull = torch.sigmoid(-positive)
        total, for_bias = softplus(-positive).sum(), -pull.sum()
        zero = total.new_zeros(())
        if trains:
            for_first, for_everyone = torch.zeros_like(first), torch.zeros_like(everyone)
        for rows, columns, negatives, scratch in _tiles(first, everyone, scale, counts, tile):
            negatives.add_(bias)
            total += torch.logaddexp(negatives, zero, out=scratch).sum()
            if trains:
                push = negatives.sigmoid_()
                for_first[rows].addmm_(push, everyone[columns])
                for_everyone[columns].addmm_(push.T, first[rows])
                for_bias += push.sum()
        share = 1 / max(1, sum(counts))
        if trains:
            for_first, for_second, for_scale = _finish(for_first, for_everyone, pull, first, second, counts)
            factor = share * scale * world()[1]
            for_bias = sum_over_ranks(for_bias)
            ctx.save_for_backward(
                for_first.mul_(factor), for_second.mul_(factor), for_scale * share, for_bias * share
            )
        return sum_over_ranks(total) * share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *(saved * gradient for saved in ctx.saved_tensors), None, None


def _tiles(
    first: Tensor, everyone: Tensor, scale: Tensor, counts: list[int], tile: int
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Yield rows, columns, their logits with -inf for the positives, and as large a scratch to work in.

    The next tile overwrites both.
    """
    begin = _mine(counts).start
    buffer, scratch = (first.new_empty(tile * tile) for _ in range(2))
    for row in range(0, len(first), tile):
        rows = slice(row, min(row + tile, len(first)))
        scaled = first[rows] * scale
        for column in range(0, len(everyone), tile):
            columns = slice(column, min(column + tile, len(everyone)))
            shape = (len(scaled), columns.stop - columns.start)
            size = shape[0] * shape[1]
            # With out=, as with addmm_ in place, autocast leaves the product in the precision of the vectors.
            logits = torch.mm(scaled, everyone[columns].T, out=buffer[:size].view(shape))
            logits.diagonal(begin + row - column).fill_(-torch.inf)  # empty where no positive is in the tile
            yield rows, columns, logits, scratch[:size].view(shape)


def _finish(
    for_first: Tensor, for_everyone: Tensor, pull: Tensor, first: Tensor, second: Tensor, counts: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Add what the positives pull; return the gradients of this rank's rows and of the scale, in units of the scale.

    Args:
        for_first: (rows, dim) sums over the negatives.
        for_everyone: (n, dim) this rank's share of the sums for the rows of all ranks.
        pull: (rows,) weight of each positive.
        first: (rows, dim).
        second: (rows, dim).
        counts: rows of every rank.
    """
    pull = pull.unsqueeze(1)
    for_first.addcmul_(pull, second, value=-1)
    for_second = sum_over_ranks(for_everyone)[_mine(counts)].addcmul_(pull, first, value=-1)
    # A logit is scale x cosine, so its slope in the scale is the cosine: the same sum as for the rows.
    return for_first, for_second, sum_over_ranks((for_first * first).sum())


def _logsumexp(logits: Tensor, dim: int, scratch: Tensor) -> Tensor:
    peak = logits.amax(dim, keepdim=True).clamp_(min=torch.finfo(logits.dtype).min)  # -inf - -inf is NaN
    return torch.sub(logits, peak, out=scratch).exp_().sum(dim).log_().add_(peak.squeeze(dim))


def _mine(counts: list[int]) -> slice:
    """Return where this rank's rows stand among all."""
    rank = world()[0]
    begin = sum(counts[:rank])
    return slice(begin, begin + counts[rank])


def _working(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return half precision as float32: a log-sum-exp over thousands of columns needs it."""
    dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    return first.to(dtype), second.to(dtype)

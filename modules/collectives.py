"""Collectives with gradients: what a loss over all ranks needs."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _AllGather(torch.autograd.Function):
    """Concatenate equal blocks of all ranks; the gradient of a rank's block is summed over all ranks."""

    @staticmethod
    def forward(ctx: Any, block: Tensor) -> Tensor:
        blocks = [torch.empty_like(block) for _ in range(dist.get_world_size())]
        dist.all_gather(blocks, block.contiguous())
        return torch.cat(blocks)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every rank computes the same global loss, and DDP averages gradients over ranks: the sum over ranks of
        # a rank's own block is world_size times the true gradient, and the average takes it back.
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        size = len(gradient) // dist.get_world_size()
        return gradient[dist.get_rank() * size :][:size]


def gather_rows(vectors: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Concatenate the rows of all ranks, with gradients: (size x ranks, dim), (size x ranks,) bool.

    Args:
        vectors: (size, dim); every rank has the same size.
        present: (size,), bool.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return vectors, present
    flags = [torch.empty_like(present) for _ in range(dist.get_world_size())]
    dist.all_gather(flags, present)
    return _AllGather.apply(vectors), torch.cat(flags)

"""Attention of one sequence over another, in which every key has a weight; and which kernel computes attention."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

MAX_TOKENS_OF_PLAIN = 128


class Attention(nn.Module):
    """Multi-head attention without biases; a query that has nothing to look at gets zeros, never NaN.

    Args:
        dim: width of the queries and of what comes out.
        context_dim: width of what is looked at.
        num_heads: heads, each `dim / num_heads` wide.

    Raises:
        ValueError: when `dim` is not a multiple of `num_heads`.
    """

    def __init__(self, dim: int, context_dim: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(
                f"a width of {dim} does not divide into {num_heads} heads: take a multiple of num_heads"
            )
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(context_dim, dim, bias=False)
        self.value = nn.Linear(context_dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, queries: Tensor, context: Tensor, bias: Tensor) -> Tensor:
        """Return (rows, queries, dim).

        Args:
            queries: (rows, queries, dim).
            context: (rows, keys, context_dim).
            bias: (rows, 1 or queries, keys), added to the logits: 0, the log of a key's weight, or -inf to hide it.
        """
        blind = (bias == -torch.inf).all(-1, keepdim=True)  # (rows, 1 or queries, 1)
        query, key, value = (
            self._heads(each) for each in (self.query(queries), self.key(context), self.value(context))
        )
        mask = bias.masked_fill(blind, 0).to(query.dtype).unsqueeze(1)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(seen.transpose(1, 2).flatten(2).masked_fill(blind, 0))

    @torch.no_grad()
    def look(self, queries: Tensor, context: Tensor, bias: Tensor) -> Tensor:
        """Return how much each query looks at each key, the mean of all heads: (rows, queries, keys), no gradient."""
        blind = (bias == -torch.inf).all(-1, keepdim=True)
        query, key = self._heads(self.query(queries)), self._heads(self.key(context))
        logits = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        logits = logits + bias.masked_fill(blind, 0).unsqueeze(1)
        return logits.softmax(-1).mean(1).masked_fill(blind, 0)

    def _heads(self, sequence: Tensor) -> Tensor:
        return sequence.unflatten(-1, (self.num_heads, -1)).transpose(
            1, 2
        )  # (rows, heads, tokens, dim / heads)


def feed_forward(dim: int, factor: int = 4) -> nn.Sequential:
    """Return LayerNorm and a two-layer perceptron without biases, `factor` times as wide inside."""
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, factor * dim, bias=False),
        nn.GELU(),
        nn.Linear(factor * dim, dim, bias=False),
    )


def quick_attention(device: torch.device, tokens: int) -> AbstractContextManager[None]:
    """Return a context in which torch's attention over short sequences trains fast on a CPU in bfloat16.

    There the backward of its fused kernel takes 4 times as long as that of the plain one for 50 tokens, and as long
    from 200 tokens on (torch 2.14 on a CPU with AVX-512). In float32 both take the same time.

    Args:
        device: of the sequences.
        tokens: of the longest sequence.
    """
    is_bfloat16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if device.type != "cpu" or tokens > MAX_TOKENS_OF_PLAIN or not (is_bfloat16 and torch.is_grad_enabled()):
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)


def alike() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return contexts for a layer and for the same layer computed again, in which attention takes the same kernel.

    For `torch.utils.checkpoint`, whose second pass is outside the context of the first, and which refuses a kernel
    that keeps other tensors.
    """
    others = (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled())
    is_plain = torch.backends.cuda.math_sdp_enabled() and not any(others)
    return nullcontext(), sdpa_kernel(SDPBackend.MATH) if is_plain else nullcontext()

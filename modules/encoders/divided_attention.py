"""Divided space-time attention that leaves masked frames out, over the weights of transformers' TimesformerLayer."""

import torch
from torch import Tensor, nn
from transformers.models.timesformer.modeling_timesformer import TimeSformerAttention, TimesformerLayer


class DividedAttention(TimesformerLayer):
    """A block of TimeSformer (arXiv:2102.05095, section 3, "divided space-time attention").

    As the library's, but that a patch attends through time to real frames alone, and the class token is the mean of
    what it found in the real frames. With all frames real it gives what the library gives.
    """

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return features of the same shape.

        Args:
            hidden: (rows, 1 + patches × frames, dim): class token, then each patch through time.
            mask: (rows, frames), True where a frame is real.
        """
        rows, frames = mask.shape
        first, rest = hidden[:, :1], hidden[:, 1:]
        patches = rest.shape[1] // frames
        through_time = self.temporal_layernorm(rest).reshape(rows * patches, frames, -1)
        # Of a clip without frames all are kept: softmax over none would come to NaN.
        keep = mask | ~mask.any(1, keepdim=True)
        keep = keep.repeat_interleave(patches, 0)[:, None, None]  # (rows × patches, 1, 1, frames)
        found = self.drop_path(attend(self.temporal_attention, through_time, keep))
        rest = rest + self.temporal_dense(found.reshape(rest.shape))

        in_space = rest.unflatten(1, (patches, frames)).transpose(1, 2)  # (rows, frames, patches, dim)
        in_space = torch.cat([first.unsqueeze(1).expand(-1, frames, -1, -1), in_space], dim=2).flatten(0, 1)
        found = self.drop_path(attend(self.attention, self.layernorm_before(in_space), None))
        found = found.unflatten(0, (rows, frames))  # (rows, frames, 1 + patches, dim)
        weights = mask.to(found.dtype) / mask.sum(1, keepdim=True).clamp(min=1)
        seen_by_first = torch.einsum("rf,rfd->rd", weights, found[:, :, 0]).unsqueeze(1)
        seen = found[:, :, 1:].transpose(1, 2).flatten(1, 2)  # (rows, patches × frames, dim)
        hidden = torch.cat([first, rest], dim=1) + torch.cat([seen_by_first, seen], dim=1)
        return hidden + self.drop_path(self.output(self.intermediate(self.layernorm_after(hidden))))


def attend(attention: TimeSformerAttention, hidden: Tensor, keep: Tensor | None) -> Tensor:
    """Return self-attention over (rows, tokens, dim); `keep` is broadcast to (rows, heads, tokens, tokens)."""
    inner = attention.attention
    query, key, value = inner.qkv(hidden).unflatten(2, (3, inner.num_heads, -1)).permute(2, 0, 3, 1, 4)
    dropout = inner.attn_drop.p if attention.training else 0.0
    found = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=keep, dropout_p=dropout)
    return attention.output(found.transpose(1, 2).flatten(2))

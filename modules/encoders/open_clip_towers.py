"""What open_clip's towers need not compute: places of padding in a text, and patches that nobody reads.

Both modules take over a tower's own modules and parameters under their own names, so its weights fit as they are.
"""

import torch
from torch import Tensor, nn

from modules.packing import Packing, packing

ROW_TOKENS = 64
"""Tokens of a row in which several texts stand: wide enough to be full, narrow enough for attention to cost little."""
FULL = 0.9
"""Share of real tokens above which nothing is gained by packing."""


class ClassTokenBlock(nn.Module):
    """The last block of an image tower that keeps its class token alone: only that token goes through it.

    Every token is looked at, so the outcome is the same; five sixths of the block's products of matrices are saved.

    Args:
        block: open_clip's `ResidualAttentionBlock`.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ls_1 = block.ln_1, block.attn, block.ls_1
        self.ln_2, self.mlp, self.ls_2 = block.ln_2, block.mlp, block.ls_2

    def forward(self, x: Tensor, *_: None, attn_mask: None = None) -> Tensor:
        """Return the class token (rows, 1, width) of x (rows, tokens, width); the library passes more, all None."""
        seen = self.ln_1(x)
        token = x[:, :1] + self.ls_1(self.attn(seen[:, :1], seen, seen, need_weights=False)[0])
        return token + self.ls_2(self.mlp(self.ln_2(token)))


class CausalText(nn.Module):
    """A text tower of open_clip in which a token sees those before it, run on real tokens only.

    What stands behind a text cannot reach it, so the features of real tokens, and the embedding that is read from one
    of them, equal those of the tower on the text padded to its context length. While training, several texts share a
    row, each seeing itself alone; else a batch is as long as its longest text.

    Args:
        tower: open_clip's `TextTransformer`; `is_causal` says whether it is one of these.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.token_embedding, self.positional_embedding = tower.token_embedding, tower.positional_embedding
        self.transformer, self.ln_final = tower.transformer, tower.ln_final
        self.text_projection = tower.text_projection
        self.pool_type, self.eos_id, self.num_heads = tower.pool_type, tower.eos_id, tower.heads

    @staticmethod
    def is_causal(tower: nn.Module) -> bool:
        """Return whether no real token, nor the one that stands for the text, sees padding."""
        reads_real_token = tower.pool_type in ("argmax", "eos", "first") and tower.cls_emb is None
        return reads_real_token and tower.attn_mask is not None

    def forward(self, ids: Tensor, mask: Tensor, *, pooled: bool) -> Tensor:
        """Return features (rows, tokens, width), or with `pooled` embeddings (rows, output_dim).

        Args:
            ids: (rows, tokens).
            mask: (rows, tokens) bool, True where a token is real.
            pooled: the projected feature of the token that stands for the text.
        """
        plan = self._plan(mask) if self.training else None  # an exported or evaluated model has one way alone
        if plan is None:
            features = self._run(ids, torch.arange(ids.shape[1], device=ids.device), None)
            place = torch.arange(ids.numel(), device=ids.device).view_as(ids)
        else:
            plan = plan.to(ids.device)
            features, place = self._run(plan.packed(ids), plan.position_ids, plan), plan.place
        if pooled:
            place = place.gather(1, self._standing_for_text(ids, mask).unsqueeze(1))  # (rows, 1)
        features = features.flatten(0, 1).index_select(0, place.flatten()).view(*place.shape, -1)
        features = self.ln_final(features)
        return self._projected(features.squeeze(1)) if pooled else features

    @staticmethod
    def _plan(mask: Tensor) -> Packing | None:
        """Return how to pack, or None where little is padding or a text has no token."""
        mask = mask.cpu()  # the one time that a GPU is waited for
        if int(mask.sum()) > FULL * mask.numel() or not mask.any(1).all():
            return None
        return packing(mask, max(ROW_TOKENS, mask.shape[1]))

    def _run(self, ids: Tensor, positions: Tensor, plan: Packing | None) -> Tensor:
        """Return what the blocks make of ids (rows, tokens): (rows, tokens, width)."""
        tokens = self.token_embedding(ids) + nn.functional.embedding(positions, self.positional_embedding)
        if plan is None:
            hidden = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).triu(1)
        else:
            hidden = ~plan.attends().repeat_interleave(self.num_heads, 0)  # (rows × heads, tokens, tokens)
        mask = torch.zeros(hidden.shape, dtype=tokens.dtype, device=ids.device)
        return self.transformer(tokens, attn_mask=mask.masked_fill_(hidden, -torch.inf))

    def _standing_for_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return which token of each text (rows,) its embedding is read from."""
        if self.pool_type == "first":
            return torch.zeros(len(ids), dtype=torch.long, device=ids.device)
        return (
            ids.masked_fill(~mask, 0) if self.pool_type == "argmax" else (ids == self.eos_id).int()
        ).argmax(1)

    def _projected(self, features: Tensor) -> Tensor:
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(features)
        return features if self.text_projection is None else features @ self.text_projection

"""Masked language modelling: some tokens are hidden, the encoder says what they were."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modules.collectives import global_mean
from modules.encoders.encoder import Encoder
from modules.encoders.tokenized_text import check_keeps_tokens, tokenizer_of
from modules.objectives.draws import Draws
from modules.objectives.pretraining import PretrainingObjective
from modules.tokens import Tokens


class MaskedLanguage(PretrainingObjective):
    """BERT's objective (arXiv:1810.04805, section 3.1): of the chosen tokens 80 % are masked, 10 % random, 10 % kept.

    Args:
        encoder: of texts, a token for each of theirs; its tokenizer has a mask token.
        share: of the real tokens that are chosen.
        seed: of what is chosen.

    Raises:
        ValueError: when the encoder takes no texts or pools them, or its tokenizer has no `[MASK]` or `<mask>`.
    """

    def __init__(self, encoder: Encoder, share: float = 0.15, seed: int = 0) -> None:
        super().__init__()
        from tokenizers import Tokenizer

        asker = "masked language modelling"
        tokenizer = Tokenizer.from_str(tokenizer_of(encoder, asker))
        ids = [tokenizer.token_to_id(name) for name in ("[MASK]", "<mask>")]
        found = [index for index in ids if index is not None]
        if not found:
            raise ValueError(
                f"the tokenizer has no [MASK] or <mask> token, which {asker} shows in place of words: take "
                "the tokenizer.json that prepare learns of a TextLines, or a pretrained model whose own has one"
            )
        check_keeps_tokens(encoder, asker)
        self.mask_id = found[0]
        self.special_ids = [i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special]
        self.vocab_size = tokenizer.get_vocab_size()
        self.share, self.draws = share, Draws(seed)
        self.chance = 1 / self.vocab_size
        self.dense = nn.Linear(encoder.dim, encoder.dim)
        self.norm = nn.LayerNorm(encoder.dim)
        self.decoder = nn.Linear(encoder.dim, self.vocab_size)

    def corrupt(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the corrupted ids, and the target (rows, tokens): the true id where chosen, -100 elsewhere."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
        special = torch.isin(ids, torch.tensor(self.special_ids, device=ids.device, dtype=ids.dtype))
        luck = self.draws.uniform(len(ids), 3 * ids.shape[1]).to(ids.device, torch.float32)
        luck, fate, word = luck.unflatten(1, (-1, 3)).unbind(2)  # (rows, tokens) each
        chosen = (luck < self.share) & mask & ~special
        corrupted = torch.where(chosen & (fate < 0.8), self.mask_id, ids)
        random = (word * self.vocab_size).long().clamp(max=self.vocab_size - 1)
        corrupted = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), random, corrupted)
        return {**inputs, "input_ids": corrupted}, torch.where(chosen, ids, -100)

    def forward(self, tokens: Tokens, target: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Judge the chosen tokens alone: the others never meet the vocabulary."""
        chosen = target != -100
        features = self.norm(nn.functional.gelu(self.dense(tokens.features[chosen])))
        logits = self.decoder(features)  # (chosen, vocab_size)
        count = max(1, len(logits))
        total = nn.functional.cross_entropy(logits, target[chosen], reduction="sum")
        accuracy = (logits.argmax(1) == target[chosen]).sum() / count
        return {"masked_language": global_mean(total, len(logits))}, {"accuracy": accuracy.detach()}

"""Causal language modelling: every token is predicted from those before it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modules.collectives import global_mean
from modules.language_model import LanguageModel
from modules.objectives.pretraining import PretrainingObjective
from modules.packing import pack
from modules.tokens import Tokens


class CausalLanguage(PretrainingObjective):
    """GPT's objective (Radford et al. 2018, eq. 1), over real tokens only.

    Args:
        encoder: a language model; its own output layer is used and trained.
        pack_tokens: several texts share a row of at most so many tokens, each seeing itself alone; the loss is the
            same, with less padding. None gives each text a row.

    Raises:
        ValueError: when the encoder has no output layer, or its texts may be longer than a row.
    """

    def __init__(self, encoder: LanguageModel, pack_tokens: int | None = None) -> None:
        super().__init__()
        if not isinstance(encoder, LanguageModel):
            raise ValueError(
                f"causal language modelling needs modules.language_model.LanguageModel, not {type(encoder).__name__}"
            )
        if pack_tokens is not None and pack_tokens < encoder.max_tokens:
            raise ValueError(
                f"pack_tokens is {pack_tokens}, and the language model takes texts of {encoder.max_tokens} tokens: "
                "expected at least as many"
            )
        self.pack_tokens = pack_tokens
        self.head = [encoder.head]  # in a list: the layer belongs to the encoder's part, not to the objective
        self.chance = 1 / encoder.vocab_size

    def corrupt(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the inputs, packed where asked, and the target (rows, tokens): the next id, -100 where is none."""
        seen = dict(inputs) if self.pack_tokens is None else pack(inputs, self.pack_tokens)
        ids, mask = seen["input_ids"], seen["attention_mask"].bool()
        target = torch.where(mask, ids, -100).roll(-1, dims=1)
        target[:, -1:] = -100
        if self.pack_tokens is not None:
            segments = seen.pop("segment_ids")
            target[segments != segments.roll(-1, dims=1)] = -100  # the last token of a text
        return seen, target

    def forward(self, tokens: Tokens, target: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Judge the logits of every token that has a next one."""
        real = target != -100
        logits = self.head[0](tokens.features[real])  # (real, vocab_size)
        count = max(1, len(logits))
        total = nn.functional.cross_entropy(logits.float(), target[real], reduction="sum")
        accuracy = (logits.argmax(1) == target[real]).sum() / count
        return {"causal_language": global_mean(total, len(logits))}, {"accuracy": accuracy.detach()}

"""Causal language modelling: every token is predicted from those before it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modules.collectives import global_mean
from modules.language_model import LanguageModel
from modules.objectives.pretraining import PretrainingObjective
from modules.tokens import Tokens


class CausalLanguage(PretrainingObjective):
    """GPT's objective (Radford et al. 2018, eq. 1), over real tokens only.

    Args:
        encoder: a language model; its own output layer is used and trained.

    Raises:
        ValueError: when the encoder has no output layer.
    """

    def __init__(self, encoder: LanguageModel) -> None:
        super().__init__()
        if not isinstance(encoder, LanguageModel):
            raise ValueError(
                f"causal language modelling needs modules.language_model.LanguageModel, not {type(encoder).__name__}"
            )
        self.head = [encoder.head]  # in a list: the layer belongs to the encoder's part, not to the objective
        self.chance = 1 / encoder.vocab_size

    def corrupt(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the inputs as they are, and the target (rows, tokens): the next id, -100 where there is none."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
        target = torch.where(mask, ids, -100).roll(-1, dims=1)
        target[:, -1:] = -100
        return dict(inputs), target

    def forward(self, tokens: Tokens, target: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Judge the logits of every token that has a next one."""
        real = target != -100
        logits = self.head[0](tokens.features[real])  # (real, vocab_size)
        count = max(1, len(logits))
        total = nn.functional.cross_entropy(logits.float(), target[real], reduction="sum")
        accuracy = (logits.argmax(1) == target[real]).sum() / count
        return {"causal_language": global_mean(total, len(logits))}, {"accuracy": accuracy.detach()}

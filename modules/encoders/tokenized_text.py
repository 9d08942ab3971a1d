"""TokenizedTextEncoder: what encoders of text share, whichever library their trunk is from."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from modules.attention import quick_attention
from modules.encoders.encoder import Encoder, at_least_one_row
from modules.encoders.picture import evaluating
from modules.tokens import Tokens

TEXT = "datamodules.modalities.text.Text"
"""What makes ids of texts, by the tokenizer of an encoder's `input_config`."""


class TokenizedTextEncoder(Encoder):
    """Token ids (rows, tokens) to Tokens. A subclass says in `_tokens` what it makes of them.

    Args:
        tokenizer_json: JSON text of the tokenizers library.
        max_tokens: longer texts are cut.
    """

    def __init__(self, tokenizer_json: str, max_tokens: int) -> None:
        super().__init__()
        self.tokenizer_json, self.max_tokens = tokenizer_json, max_tokens

    @property
    def input_config(self) -> dict[str, Any]:
        return {
            "class_path": TEXT,
            "init_args": {"tokenizer_json": self.tokenizer_json, "max_tokens": self.max_tokens},
        }

    def assets(self) -> dict[str, str]:
        return {"tokenizer.json": self.tokenizer_json}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Encode text.

        Args:
            inputs: `input_ids` (rows, tokens) and `attention_mask` (rows, tokens), True where a token is real.
        """
        rows = len(inputs["input_ids"])
        inputs = at_least_one_row(inputs)
        ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
        with quick_attention(ids.device, ids.shape[1]):
            tokens = self._tokens(ids, mask)
        return Tokens(tokens.features[:rows], tokens.mask[:rows])

    @abstractmethod
    def _tokens(self, ids: Tensor, mask: Tensor) -> Tokens:
        """Return Tokens of ids (rows, tokens), of which `mask` (rows, tokens) tells the real ones."""


def tokenizer_of(encoder: Encoder, asker: str) -> str:
    """Return the tokenizer of an encoder of texts, a language model's included, as JSON text.

    Raises:
        ValueError: when it takes something else.
    """
    config = encoder.input_config
    if config["class_path"] != TEXT:
        raise ValueError(
            f"{asker} needs an encoder of texts that are tokenised ({TEXT}), {type(encoder).__name__} takes "
            f"{config['class_path']}: take one such as modules.encoders.huggingface.TextEncoder"
        )
    return config["init_args"]["tokenizer_json"]


def check_keeps_tokens(encoder: Encoder, asker: str) -> None:
    """Refuse an encoder of texts that gives fewer tokens than it takes, by asking it.

    Raises:
        ValueError: when it does.
    """
    if next(encoder.parameters()).is_meta:
        return  # a plan of shapes alone: nothing can be asked
    ids = torch.zeros(1, 3, dtype=torch.int64)
    with torch.no_grad(), evaluating(encoder):
        count = encoder({"input_ids": ids, "attention_mask": ids == 0}).mask.shape[1]
    if count != ids.shape[1]:
        raise ValueError(
            f"{type(encoder).__name__} gives {count} token(s) for {ids.shape[1]}, and {asker} needs one for each: "
            "it pools; build it without last_only or pooled"
        )

"""TokenizedTextEncoder: what encoders of text share, whichever library their trunk is from."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modules.attention import quick_attention
from modules.encoders.encoder import Encoder, at_least_one_row
from modules.tokens import Tokens


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
            "class_path": "datamodules.modalities.text.Text",
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

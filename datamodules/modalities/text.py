"""Text: UTF-8 to token ids."""

import json
import unicodedata

import numpy as np
import torch
from torch import Tensor

from datamodules.modalities.bad_sample import BadSample


class Text:
    """Text members to ids. Inputs: `input_ids` (rows, tokens) int64, `attention_mask` (rows, tokens) bool.

    What looks like a special token in a text is text, or left out where the vocabulary knows it as nothing else.

    Args:
        tokenizer_json: JSON text of the tokenizers library; its post-processor adds special tokens.
        max_tokens: longer texts are cut.
        max_bytes: longer members are bad samples.
    """

    members = ("txt",)

    def __init__(self, tokenizer_json: str, max_tokens: int, max_bytes: int = 1 << 20) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_str(tokenizer_json)
        self.pad_id = (self.tokenizer.padding or {}).get("pad_id", 0)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_tokens)
        self.reserved = _special_ids(self.tokenizer)
        self.max_tokens, self.max_bytes = max_tokens, max_bytes

    def decode(self, data: bytes, member: str) -> str:
        """Return clean text: no byte order mark, no control or direction marks, single line ends.

        Raises:
            BadSample: when it is too long, not UTF-8, or empty.
        """
        if len(data) > self.max_bytes:
            raise BadSample("text_too_long", f"{len(data)} bytes, at most {self.max_bytes}")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise BadSample("not_utf8", str(error)) from error
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        text = "".join(
            c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs")
        ).strip()
        if not text:
            raise BadSample("empty_text")
        return text

    def augment(self, value: str, rng: np.random.Generator) -> str:
        return value

    def collate(self, values: list[str]) -> dict[str, Tensor]:
        """Tokenise all texts at once and pad to the longest."""
        self.tokenizer.encode_special_tokens = True  # here, since pickling for a worker forgets it
        encoded = [
            [
                token
                for token, is_added in zip(found.ids, found.special_tokens_mask, strict=True)
                if is_added or token not in self.reserved
            ]
            for found in self.tokenizer.encode_batch(values)
        ]
        width = max(map(len, encoded), default=0)
        input_ids = torch.full((len(encoded), width), self.pad_id, dtype=torch.long)
        attention_mask = torch.zeros(len(encoded), width, dtype=torch.bool)
        for row, ids in enumerate(encoded):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            attention_mask[row, : len(ids)] = True
        return {"input_ids": input_ids, "attention_mask": attention_mask}


def _special_ids(tokenizer: "tokenizers.Tokenizer") -> frozenset[int]:  # noqa: F821
    """Return the ids that only the tokenizer itself may set: those of special tokens, but for the unknown word's."""
    model = json.loads(tokenizer.to_str())["model"]
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return frozenset(special - {model.get("unk_id"), tokenizer.token_to_id(model.get("unk_token") or "")})

"""Text: UTF-8 to token ids."""

import codecs
import itertools
import json
import unicodedata

import numpy as np
import torch
from torch import Tensor

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.synonyms import Synonyms, load_synonyms

JSON_FIELDS = ("caption", "text")
MAX_JSON_BYTES = 1 << 24


class Text:
    """Text members to ids. Inputs: `input_ids` (rows, tokens) int64, `attention_mask` (rows, tokens) bool.

    A `.json` member is an object whose `caption` or `text` is meant. What looks like a special token in a text
    is text, or left out where the vocabulary knows it as nothing else.

    Args:
        tokenizer_json: JSON text of the tokenizers library; its post-processor adds special tokens.
        max_tokens: longer texts are cut.
        max_characters: longer texts are cut before they are tokenised, which takes long for very long ones.
        synonyms: in training, where synonyms come from: a TSV or JSON file, or `wordnet`; see docs/augmentation.md.
        synonym_share: probability for each word that has synonyms to become one of them.

    Raises:
        ValueError: when a number makes no sense, or synonyms are asked for without a share or the reverse.
        FileNotFoundError: when synonyms are not there.
    """

    members = ("txt", "json")

    def __init__(
        self,
        tokenizer_json: str,
        max_tokens: int,
        max_characters: int = 100_000,
        synonyms: str | None = None,
        synonym_share: float = 0.0,
    ) -> None:
        from tokenizers import Tokenizer

        if max_tokens < 1 or max_characters < 1 or not 0 <= synonym_share <= 1:
            raise ValueError(
                f"text: max_tokens {max_tokens}, max_characters {max_characters}, synonym_share {synonym_share}: "
                "expected at least 1, at least 1, and a share from 0 to 1"
            )
        if (synonyms is None) != (synonym_share == 0):
            raise ValueError(
                f"text: synonyms is {synonyms} and synonym_share {synonym_share}: "
                "expected both, where from and how many, or none"
            )
        self.tokenizer = Tokenizer.from_str(tokenizer_json)
        self.pad_id = (self.tokenizer.padding or {}).get("pad_id", 0)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_tokens)
        self.num_added = self.tokenizer.num_special_tokens_to_add(is_pair=False)
        self.reserved = np.array(sorted(_special_ids(self.tokenizer)), dtype=np.int64)
        self.max_tokens, self.max_characters = max_tokens, max_characters
        self.synonyms: Synonyms | None = load_synonyms(synonyms) if synonyms else None
        self.synonym_share = synonym_share

    def decode(self, data: bytes, member: str) -> str:
        """Return clean text: no byte order mark, no control or direction marks, single line ends.

        Raises:
            BadSample: when it is not UTF-8, or empty, or not the JSON that is expected.
        """
        text = _caption(data) if member == "json" else _prefix(data, self.max_characters)
        text = clean(text[: self.max_characters])
        if not text:
            raise BadSample("empty_text")
        return text

    def augment(self, value: str, rng: np.random.Generator) -> str:
        return self.synonyms.replace(value, self.synonym_share, rng) if self.synonyms else value

    def collate(self, values: list[str]) -> dict[str, Tensor]:
        """Tokenise all texts at once and pad to the longest."""
        self.tokenizer.encode_special_tokens = True  # here, since pickling for a worker forgets it
        encoded = self.tokenizer.encode_batch_fast(values)
        ids = [found.ids for found in encoded]
        flat, lengths = flattened(ids)
        # The post-processor adds as many to each text. A text with more has some of its own: those go.
        is_reserved = np.isin(flat, self.reserved)
        counts = np.bincount(np.repeat(np.arange(len(ids)), lengths), is_reserved, minlength=len(ids))
        if suspect := np.flatnonzero(counts > self.num_added).tolist():
            for row in suspect:
                ids[row] = [ids[row][place] for place in self._kept(encoded[row])]
            flat, lengths = flattened(ids)
        return self._padded(flat, lengths)

    def _padded(self, flat: np.ndarray, lengths: np.ndarray) -> dict[str, Tensor]:
        """Return Inputs of ids that stand one behind the other, so many of each text."""
        attention_mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
        input_ids = np.full(attention_mask.shape, self.pad_id, dtype=np.int64)
        input_ids[attention_mask] = flat
        return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}

    def _kept(self, encoding: "tokenizers.Encoding") -> list[int]:  # noqa: F821
        """Return the places of all tokens but special ones that the tokenizer did not add itself."""
        reserved = set(self.reserved.tolist())
        tokens = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
        return [place for place, (token, is_added) in enumerate(tokens) if is_added or token not in reserved]


def clean(text: str) -> str:
    """Return text without control, format and surrogate characters, with single line ends."""
    if text.isprintable():
        return text.strip()
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    unwanted = {ord(c): None for c in set(text) if unicodedata.category(c) in ("Cc", "Cf", "Cs")}
    return text.translate({**unwanted, ord("\n"): "\n", ord("\t"): "\t"}).strip()


def _prefix(data: bytes, max_characters: int) -> str:
    """Return at least the first characters of UTF-8; what follows is not even looked at."""
    size = 4 * max_characters + 3  # the longest characters, behind a byte order mark
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        return decoder.decode(data[:size], final=len(data) <= size)
    except UnicodeDecodeError as error:
        raise BadSample("not_utf8", str(error)) from error


def _caption(data: bytes) -> str:
    if len(data) > MAX_JSON_BYTES:
        raise BadSample("json_too_large", f"{len(data)} bytes, at most {MAX_JSON_BYTES}")
    try:
        record = json.loads(data)
    except UnicodeDecodeError as error:
        raise BadSample("not_utf8", str(error)) from error
    except (ValueError, RecursionError) as error:
        raise BadSample("text_layout", f"not readable as JSON ({error})") from error
    found = [record[name] for name in JSON_FIELDS if name in record] if isinstance(record, dict) else []
    if not found or not isinstance(found[0], str):
        raise BadSample("text_layout", f"expected an object with a text as {' or '.join(JSON_FIELDS)}")
    return found[0].encode("utf-8", "replace").decode("utf-8")  # JSON may name half a character


def flattened(ids: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return all ids one behind the other, and how many each list has."""
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    flat = np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int64, count=int(lengths.sum()))
    return flat, lengths


def _special_ids(tokenizer: "tokenizers.Tokenizer") -> frozenset[int]:  # noqa: F821
    """Return the ids that only the tokenizer itself may set: those of special tokens, but for the unknown word's."""
    model = json.loads(tokenizer.to_str())["model"]
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return frozenset(special - {model.get("unk_id"), tokenizer.token_to_id(model.get("unk_token") or "")})

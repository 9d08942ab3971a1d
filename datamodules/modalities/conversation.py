"""Conversation: LLaVA's JSON to the token ids of a language model, with places for media and a mask of the answers."""

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.modalities.bad_sample import BadSample

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


@dataclass(frozen=True)
class Turn:
    """What one side says: `role` is user or assistant."""

    role: str
    text: str


class Conversation:
    """Records such as `{"conversations": [{"from": "human", "value": "<image>\\nWhat is it?"}, {"from": "gpt", …}]}`.

    Inputs: `input_ids` (rows, tokens) int64, where -1 - k marks the place of a medium of the k-th kind in
    `media`; `attention_mask` (rows, tokens) bool; `answer_mask` (rows, tokens) bool, True where the assistant
    speaks, its end of turn included; `prompt_length` (rows,) int64, tokens before the last answer.

    Args:
        tokenizer_json: the language model's tokenizer, as JSON text of the tokenizers library.
        max_tokens: longer records are bad samples: an answer must not be cut in silence.
        media: names that a tag such as `<image>` may have.
        chat_format: how a turn of the user and of the assistant is written; `{}` is what was said. Special
            tokens are those of the format alone: what a record says is text, whatever it looks like.
    """

    members = ("json",)

    def __init__(
        self,
        tokenizer_json: str,
        max_tokens: int,
        media: list[str],
        chat_format: dict[str, str],
        max_bytes: int = 1 << 20,
    ) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_str(tokenizer_json)
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.max_tokens, self.media, self.max_bytes = max_tokens, list(media), max_bytes
        self.tags = re.compile("(" + "|".join(re.escape(f"<{name}>") for name in media) + r")\n?")
        self.before, self.after = {}, {}
        for role in ("user", "assistant"):
            before, found, after = chat_format[role].partition("{}")
            if not found:
                raise ValueError(
                    f"chat_format.{role} is {chat_format[role]!r}: expected {{}} where the text goes"
                )
            self.before[role], self.after[role] = self._format_ids(before), self._format_ids(after)

    def decode(self, data: bytes, member: str) -> list[Turn]:
        """Read one record.

        Raises:
            BadSample: when it is not LLaVA's layout.
        """
        if len(data) > self.max_bytes:
            raise BadSample("conversation_too_large", f"{len(data)} bytes, at most {self.max_bytes}")
        try:
            record = json.loads(data)
            turns = [Turn(ROLES[turn["from"]], turn["value"]) for turn in record["conversations"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadSample(
                "conversation_layout", f"expected conversations of from and value ({error})"
            ) from error
        roles = [turn.role for turn in turns]
        if not turns or any(role != ("user", "assistant")[index % 2] for index, role in enumerate(roles)):
            raise BadSample("conversation_roles", f"expected user and assistant in turn, got {roles}")
        if not all(isinstance(turn.text, str) for turn in turns):
            raise BadSample("conversation_layout", "a value is not text")
        count = len(self._encode(turns)[0])
        if count > self.max_tokens:
            raise BadSample("conversation_too_long", f"{count} tokens, at most {self.max_tokens}")
        return turns

    def augment(self, value: list[Turn], rng: np.random.Generator) -> list[Turn]:
        return value

    def collate(self, values: list[list[Turn]]) -> dict[str, Tensor]:
        """Tokenise turns and pad on the right."""
        encoded = [self._encode(turns) for turns in values]
        width = max((len(ids) for ids, _, _ in encoded), default=0)
        input_ids = torch.zeros(len(values), width, dtype=torch.long)
        attention_mask = torch.zeros(len(values), width, dtype=torch.bool)
        answer_mask = torch.zeros(len(values), width, dtype=torch.bool)
        for row, (ids, answers, _) in enumerate(encoded):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            attention_mask[row, : len(ids)] = True
            answer_mask[row, : len(ids)] = torch.tensor(answers)
        prompt_length = torch.tensor([prompt for _, _, prompt in encoded], dtype=torch.long)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "answer_mask": answer_mask,
            "prompt_length": prompt_length,
        }

    def _encode(self, turns: list[Turn]) -> tuple[list[int], list[bool], int]:
        ids: list[int] = []
        answers: list[bool] = []
        prompt = 0
        for turn in turns:
            before, text, after = self.before[turn.role], self._text_ids(turn.text), self.after[turn.role]
            speaks = turn.role == "assistant"
            if speaks:
                prompt = len(ids) + len(before)
            ids += before + text + after
            answers += [False] * len(before) + [speaks] * (len(text) + len(after))
        if turns[-1].role == "user":  # somebody asks: the assistant is to speak next
            ids += self.before["assistant"]
            answers += [False] * len(self.before["assistant"])
            prompt = len(ids)
        return ids, answers, prompt

    def _text_ids(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in self.tags.split(text):
            if piece[1:-1] in self.media and piece == f"<{piece[1:-1]}>":
                ids.append(-1 - self.media.index(piece[1:-1]))
            elif piece:
                self.tokenizer.encode_special_tokens = True  # "[EOS]" in a record is text
                ids += self.tokenizer.encode(piece, add_special_tokens=False).ids
        return ids

    def _format_ids(self, text: str) -> list[int]:
        self.tokenizer.encode_special_tokens = False
        return self.tokenizer.encode(text, add_special_tokens=False).ids if text else []


def answer(record: bytes) -> str:
    """Return the last thing the assistant says in a record, for evaluation."""
    conversation: list[dict[str, Any]] = json.loads(record)["conversations"]
    return str(conversation[-1]["value"])

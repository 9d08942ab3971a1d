"""Answers of an assistant on held-out instructions, and on the same ones with blank media."""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.modalities.build import build_modalities
from datamodules.stream import batches
from modules.assistant import CONVERSATION, Assistant
from stages.evaluate.media import PICTURES

Inputs = Mapping[str, Tensor]
Show = Callable[[Inputs], Inputs]


@dataclass(frozen=True)
class Answer:
    """What was asked, expected and said."""

    key: str
    task: str
    question: str
    expected: str
    said: str

    @property
    def is_right(self) -> bool:
        return normal(self.said) == normal(self.expected)


def normal(text: str) -> str:
    """Return a text as answers are compared: no case, single spaces, no full stop at the end."""
    return re.sub(r"\s+", " ", text.casefold()).strip().rstrip(".!? ")


def blank(inputs: Inputs) -> Inputs:
    """Return Inputs of the same size that show nothing: a mid-gray picture, silence, no item of a catalogue.

    Intensities are the uint8 tensors, signals the floating ones, choices out of many (of which 0 is none) the int32
    ones; lengths, places and masks, which are int64 and bool, stay as they are.
    """
    nothing = {torch.uint8: 128, torch.int32: 0}
    return {
        name: torch.full_like(tensor, nothing.get(tensor.dtype, 0))
        if tensor.dtype in nothing or tensor.is_floating_point()
        else tensor
        for name, tensor in inputs.items()
    }


def ask(
    assistant: Assistant,
    shards: Path,
    records: Mapping[str, bytes],
    *,
    show: Show = dict,
    max_new_tokens: int,
    batch_size: int,
    device: torch.device,
) -> list[Answer]:
    """Ask everything in a set of shards.

    Args:
        assistant: in evaluation mode, on `device`.
        shards: conversations with their media.
        records: LLaVA records as JSON, by key, for what is asked and expected.
        show: what is made of the Inputs of each medium before the assistant sees it, such as `blank`.
        max_new_tokens: longer answers are cut.
        batch_size: conversations at once; does not change the outcome.
        device: where the assistant is.

    Raises:
        ValueError: when the set holds no conversation.
    """
    tags = re.compile("|".join(rf"<{re.escape(name)}>\s*" for name in assistant.media))
    answers = []
    for batch in batches(shards, build_modalities(assistant.input_configs), batch_size):
        batch = batch.to(device)
        media = {name: show(inputs) for name, inputs in batch.inputs.items() if name != CONVERSATION}
        said = assistant.generate({**batch.inputs, **media}, batch.rows, max_new_tokens)
        keys = [batch.keys[row] for row in batch.rows[CONVERSATION].tolist()]
        answers += [
            Answer(key, *_asked(records[key], tags), text) for key, text in zip(keys, said, strict=True)
        ]
    if not answers:
        raise ValueError(
            f"{shards} holds no conversation: expected prepared instructions (stages.prepare, LlavaJson)"
        )
    return answers


def _asked(data: bytes, tags: re.Pattern[str]) -> tuple[str, str, str]:
    """Return task, last question without its media tags, and expected answer of a LLaVA record."""
    record = json.loads(data)
    *_, question, answer = record["conversations"]
    return record.get("task") or "all", tags.sub("", question["value"]).strip(), answer["value"]


def scores(answers: list[Answer], blind: list[Answer]) -> dict[str, Any]:
    """Return exact match over all answers and per task, beside chance and the answers to blank media.

    Chance is the accuracy of always giving the most frequent answer of the task in this very set.
    """
    tasks: dict[str, list[tuple[Answer, Answer]]] = defaultdict(list)
    for pair in zip(answers, blind, strict=True):
        tasks[pair[0].task].append(pair)
    per_task = {task: _task_scores(pairs) for task, pairs in sorted(tasks.items())}

    most_frequent = sum(task["chance"] * task["count"] for task in per_task.values())
    return {
        "exact_match": exact_match(answers),
        "blank_media": exact_match(blind),
        "chance": most_frequent / len(answers),
        "count": len(answers),
        "per_task": per_task,
    }


def exact_match(answers: list[Answer]) -> float:
    """Return the share of answers that are as expected."""
    return sum(answer.is_right for answer in answers) / len(answers)


def _task_scores(pairs: list[tuple[Answer, Answer]]) -> dict[str, float]:
    answers, blind = (list(side) for side in zip(*pairs, strict=True))
    [(_, most)] = Counter(normal(answer.expected) for answer in answers).most_common(1)
    return {
        "exact_match": exact_match(answers),
        "chance": most / len(answers),
        "blank": exact_match(blind),
        "count": len(answers),
    }


def description_scores(answers: list[Answer]) -> dict[str, float]:
    """Return BLEU-4 and the F-measures of ROUGE-1 and ROUGE-L of answers that are descriptions."""
    from torchmetrics.functional.text import bleu_score, rouge_score

    said = [normal(answer.said) for answer in answers]  # lists: rouge_score takes a tuple for one text
    expected = [normal(answer.expected) for answer in answers]
    rouge = rouge_score(said, expected, rouge_keys=("rouge1", "rougeL"))
    return {
        "bleu": bleu_score(said, [[text] for text in expected]).item(),
        "rouge1": rouge["rouge1_fmeasure"].item(),
        "rougeL": rouge["rougeL_fmeasure"].item(),
        "count": len(said),
    }


@torch.no_grad()
def looks(
    assistant: Assistant, shards: Path, keys: Collection[str], *, batch_size: int, device: torch.device
) -> dict[str, np.ndarray]:
    """Return, by key, where in the picture the first word of the answer looks: (height, width) in media tokens.

    Samples without a picture, or whose tokens do not lie on a square grid, are left out; so are all of an assistant
    whose projector keeps no places, such as a resampler.
    """
    modalities = build_modalities(assistant.input_configs)
    pictures = next(
        (name for name in assistant.media if PICTURES.keys() & set(modalities[name].members)), None
    )
    group = assistant.projectors[pictures].group if pictures else None
    if group is None:
        return {}
    found = {}
    for batch in batches(shards, modalities, batch_size):
        if not set(batch.keys) & set(keys):
            continue
        batch = batch.to(device)
        looked = assistant.attention(batch.inputs, batch.rows)
        for row, weights in zip(batch.rows[CONVERSATION].tolist(), looked, strict=True):
            seen = grid(weights[pictures], group)
            if batch.keys[row] in keys and seen is not None:
                found[batch.keys[row]] = seen.float().cpu().numpy()
    return found


def grid(weights: Tensor, group: int) -> Tensor | None:
    """Lay weights (media tokens,), each of `group` neighbours in a row of patches, on their square of patches."""
    side = math.isqrt(len(weights) * group)
    if not len(weights) or side * side != len(weights) * group or side % group:
        return None
    return weights.view(side, side // group)

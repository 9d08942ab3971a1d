"""What a server answers, without the web: bytes of media in, vectors, neighbours and answers out."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.build import build_modalities
from modules.assistant import CONVERSATION, Assistant
from modules.embedder import Embedder
from stages.serve.index import Hit, Index


class Refused(ValueError):
    """A request that cannot be answered, and what the one who asks can do about it."""


@dataclass(frozen=True)
class Medium:
    """One text, picture, sound or other thing that is sent.

    modality: as the models name it; data: as in a file; filename: its suffix says which format; None for plain text.
    """

    modality: str
    data: bytes
    filename: str | None = None

    @property
    def member(self) -> str:
        """The suffix of its file, as shards name members."""
        return "txt" if self.filename is None else Path(self.filename).suffix.lower().removeprefix(".")


class Service:
    """An embedder, and if given an index to search and an assistant to ask; all on one device.

    Bytes become tensors by the very modalities that training and evaluation use, so answers are the same.

    Args:
        embedder: the aligned space.
        index: what `search` searches.
        assistant: what `ask` asks.
        max_new_tokens: longer answers are cut.
        device: where the models are.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        index: Index | None = None,
        assistant: Assistant | None = None,
        max_new_tokens: int = 48,
        device: str | torch.device = "cpu",
    ) -> None:
        self.embedder, self.index, self.assistant = embedder, index, assistant
        self.max_new_tokens, self.device = max_new_tokens, device
        self.modalities = build_modalities(embedder.input_configs)
        self.asked = build_modalities(assistant.input_configs) if assistant else {}

    @property
    def media(self) -> list[str]:
        """What `ask` takes beside a question."""
        return [name for name in self.asked if name != CONVERSATION]

    def describe(self) -> dict[str, Any]:
        """Return what there is: modalities with the formats they take, width of vectors, samples to search."""
        return {
            "modalities": {name: list(modality.members) for name, modality in self.modalities.items()},
            "dim": self.embedder.dim,
            "samples": len(self.index) if self.index else 0,
            "ask": self.media if self.assistant else None,
        }

    @torch.inference_mode()
    def embed(self, media: Sequence[Medium]) -> dict[str, Tensor]:
        """Return unit vectors (media, dim) of each modality, in the order given.

        Raises:
            Refused: when a medium is of no known modality or format, or cannot be decoded.
        """
        vectors = {}
        for name, values in decode(media, self.modalities).items():
            vectors[name] = self.embedder.embed(
                name, self._to_device(self.modalities[name].collate(values))
            ).cpu()
        return vectors

    def search(self, medium: Medium, count: int) -> dict[str, list[Hit]]:
        """Return the `count` nearest samples of the index by each of its modalities, nearest first.

        Raises:
            Refused: when there is no index, or the medium is not what `embed` takes.
        """
        if self.index is None:
            raise Refused(
                "this server has no index to search: start it with --index, the folder of a set of shards"
            )
        [vectors] = self.embed([medium]).values()
        return self.index.search(vectors[0], count)

    @torch.inference_mode()
    def ask(self, question: str, media: Sequence[Medium]) -> str:
        """Return the assistant's answer.

        Args:
            question: may say where a medium goes, by a tag such as `<image>`; without tags media go before it.
            media: at most one of each modality.

        Raises:
            Refused: when there is no assistant, the question is too long, a tag has no medium, or a medium cannot
                be decoded.
        """
        if self.assistant is None:
            raise Refused(
                "this server has no assistant to ask: start it with --assistant, a run's parts/ folder"
            )
        values = decode(media, {name: self.asked[name] for name in self.media})
        for name, found in values.items():
            if len(found) > 1:
                raise Refused(f"found {len(found)} media of {name}, expected at most one in a question")
        record = self._record(question, [medium.modality for medium in media])
        values |= decode([record], self.asked)
        inputs = {
            name: self._to_device(built.collate(values.get(name, []))) for name, built in self.asked.items()
        }
        rows = {
            name: torch.zeros(len(values.get(name, [])), dtype=torch.long, device=self.device)
            for name in inputs
        }
        [answer] = self.assistant.generate(inputs, rows, self.max_new_tokens)
        return answer

    def _record(self, question: str, given: list[str]) -> Medium:
        """Return a question as a conversation of LLaVA's layout, with a tag for each medium in place."""
        tagged = [tag for tag in re.findall(r"<(\w+)>", question) if tag in self.media]
        if sorted(tagged) not in ([], sorted(given)):
            sent = ", ".join(given) or "none"
            raise Refused(f"the question has tags for {', '.join(tagged)}, but the media are {sent}")
        tags = "" if tagged else "".join(f"<{name}>\n" for name in given)
        turns = [{"from": "human", "value": tags + question}]
        return Medium(CONVERSATION, json.dumps({"conversations": turns}).encode(), "question.json")

    def _to_device(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}


def decode(media: Iterable[Medium], modalities: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return decoded media by modality, in order.

    Raises:
        Refused: when one is of no known modality or format, or cannot be decoded.
    """
    values: dict[str, list[Any]] = {}
    for medium in media:
        modality = modalities.get(medium.modality)
        if modality is None:
            raise Refused(f"found a field '{medium.modality}', expected {', '.join(modalities)}")
        if medium.member not in modality.members:
            what = "text" if medium.filename is None else f"a file named '{Path(medium.filename).name[:80]}'"
            formats = ", ".join("." + member for member in modality.members)
            raise Refused(f"found {what} as {medium.modality}, expected a file that ends in {formats}")
        try:
            values.setdefault(medium.modality, []).append(modality.decode(medium.data, medium.member))
        except BadSample as error:
            raise Refused(f"this {medium.modality} cannot be used: {error}") from error
    return values

"""Who describes pictures: a pretrained model of transformers, or an assistant that was instructed here."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.pictures import look_at_picture
from datamodules.sources.source import Sample, read

if TYPE_CHECKING:
    import numpy as np

    from datamodules.modalities.build import Modality
    from modules.assistant import Assistant
    from modules.captioner import Captioner

MAX_PIXELS = 64_000_000
UNDECODABLE = "undecodable image"
EMPTY = "empty caption"


@dataclass(frozen=True)
class Caption:
    """What was said of a picture, or why nothing was."""

    text: str = ""
    problem: str = ""


class CaptionModel(ABC):
    """Describes pictures, the same ones with the same words. Subclasses are dataclasses."""

    @abstractmethod
    def caption(self, samples: list[Sample], member: str) -> list[Caption]:
        """Return a caption for the picture in `member` of each sample, or why there is none."""

    @property
    @abstractmethod
    def origin(self) -> dict[str, Any]:
        """What captions come from, as plain values: model, version and prompt."""


@dataclass
class PretrainedCaptions(CaptionModel):
    """A model of transformers that captions: BLIP, BLIP-2, GIT, ViT-GPT2 and the like."""

    name_or_path: str
    """A folder of `save_pretrained`, or a model's name on the hub."""
    revision: str | None = None
    """Commit or tag of a model on the hub."""
    prompt: str = ""
    """What each caption begins with, such as `a photo of`."""
    max_new_tokens: int = 40
    """Longer captions are cut."""
    device: str = "cpu"
    """Where the model runs, such as cpu or cuda."""
    loaded: "Captioner | None" = field(default=None, init=False, repr=False)

    def caption(self, samples: list[Sample], member: str) -> list[Caption]:
        pictures = [seen(read(sample.members[member])) for sample in samples]
        texts = iter(self._load()([picture for picture in pictures if picture is not None]))
        return [
            Caption(problem=UNDECODABLE) if picture is None else said(next(texts)) for picture in pictures
        ]

    @cached_property
    def origin(self) -> dict[str, Any]:
        from modules.captioner import find_model, sha256_of

        folder = find_model(self.name_or_path, self.revision)
        commit = {} if Path(self.name_or_path).is_dir() else {"revision": folder.name}
        return {"model": self.name_or_path, **commit, "sha256": sha256_of(folder), "prompt": self.prompt}

    def _load(self) -> "Captioner":
        if self.loaded is None:
            from modules.captioner import Captioner

            self.loaded = Captioner(
                self.name_or_path,
                revision=self.revision,
                prompt=self.prompt,
                max_new_tokens=self.max_new_tokens,
                device=self.device,
            )
        return self.loaded


@dataclass
class AssistantCaptions(CaptionModel):
    """An assistant that `instruct` trained, asked about each picture."""

    parts: str
    """The `parts/` folder of a run of instruct."""
    question: str = "Describe the picture."
    """What it is asked; the picture goes before it, or where `<image>` stands."""
    max_new_tokens: int = 40
    """Longer answers are cut."""
    device: str = "cpu"
    """Where the assistant runs, such as cpu or cuda."""
    loaded: "tuple[Assistant, dict[str, Modality]] | None" = field(default=None, init=False, repr=False)

    def caption(self, samples: list[Sample], member: str) -> list[Caption]:
        import json

        import torch

        from modules.assistant import CONVERSATION

        assistant, modalities = self._load()
        values: list[Any] = []
        captions: list[Caption | None] = []
        for sample in samples:
            try:
                values.append(modalities["image"].decode(read(sample.members[member]), member))
                captions.append(None)
            except BadSample as bad:
                captions.append(Caption(problem=bad.reason.replace("_", " ")))
        if not values:
            return [caption for caption in captions if caption]
        question = self.question if "<image>" in self.question else f"<image>\n{self.question}"
        record = json.dumps({"conversations": [{"from": "human", "value": question}]}).encode()
        asked = [modalities[CONVERSATION].decode(record, "json")] * len(values)
        given = {"image": values, CONVERSATION: asked}
        inputs = {
            name: {
                key: tensor.to(self.device) for key, tensor in modality.collate(given.get(name, [])).items()
            }
            for name, modality in modalities.items()
        }
        rows = {name: torch.arange(len(given.get(name, [])), device=self.device) for name in modalities}
        texts = iter(assistant.generate(inputs, rows, self.max_new_tokens))
        return [caption or said(next(texts)) for caption in captions]

    @cached_property
    def origin(self) -> dict[str, Any]:
        """The folder, a sha256 over all parts of the assistant, and the question.

        Raises:
            PartError: there is no assistant.
        """
        from modules import parts

        self._load()
        folders = sorted(path for path in Path(self.parts).iterdir() if (path / parts.CARD).is_file())
        lines = [f"{folder.name} {parts.fingerprint(parts.read_card(folder))}\n" for folder in folders]
        sha256 = hashlib.sha256("".join(lines).encode()).hexdigest()
        return {"model": self.parts, "sha256": sha256, "prompt": self.question}

    def _load(self) -> "tuple[Assistant, dict[str, Modality]]":
        if self.loaded is None:
            from datamodules.modalities.build import build_modalities
            from modules.assistant import Assistant

            assistant = Assistant.load(self.parts).to(self.device)
            if "image" not in assistant.media:
                raise ValueError(
                    f"the assistant in {self.parts} knows {', '.join(assistant.media)}: expected one that sees images"
                )
            self.loaded = assistant, build_modalities(assistant.input_configs)
        return self.loaded


def seen(data: bytes) -> "np.ndarray | None":
    """Return a picture as pixels (height, width, 3), uint8; None for no picture, or a huge one."""
    import numpy as np

    try:
        return np.array(look_at_picture(data, mode="RGB", max_pixels=MAX_PIXELS))
    except BadSample:
        return None


def said(text: str) -> Caption:
    """Return a model's text as a caption, or as the problem that it is empty."""
    text = " ".join(text.split())
    return Caption(text) if any(map(str.isalnum, text)) else Caption(problem=EMPTY)

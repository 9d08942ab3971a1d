"""WeakCaptions: pictures without a text get one from a model, marked as such."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from datamodules.preparation.cleaning.pairing import ORIGIN, origins
from datamodules.preparation.step import Step
from datamodules.sources.source import IMAGE_SUFFIXES, Dropped, Sample
from stages.prepare.captioners import CaptionModel


@dataclass
class WeakCaptions(Step):
    """Label samples that have an image and no text.

    The text becomes the member `txt`; the member `origin.json` says that it is weak and what made it, so that the
    filter `WeakText` can leave it out later. Samples that cannot be captioned are kept without a text, and counted.
    """

    model: CaptionModel
    """Who describes: `PretrainedCaptions` or `AssistantCaptions`."""
    batch_size: int = 16
    """Pictures that are described at once."""
    captioned: int = field(default=0, init=False, repr=False)
    problems: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"WeakCaptions.batch_size is {self.batch_size}, expected at least 1")

    def identity(self) -> dict[str, Any]:
        return self.model.origin

    def __call__(self, samples: list[Sample]) -> list[Sample | Dropped]:
        outcome: list[Sample | Dropped] = list(samples)
        lacking: dict[str, list[int]] = {}
        for place, sample in enumerate(samples):
            member = next((suffix for suffix in sorted(sample.members) if suffix in IMAGE_SUFFIXES), None)
            if member is not None and "txt" not in sample.members:
                lacking.setdefault(member, []).append(place)
        for member, places in lacking.items():
            for start in range(0, len(places), self.batch_size):
                some = places[start : start + self.batch_size]
                captions = self.model.caption([samples[place] for place in some], member)
                for place, caption in zip(some, captions, strict=True):
                    if caption.problem:
                        self.problems[caption.problem] += 1
                    else:
                        self.captioned += 1
                        outcome[place] = self._labelled(samples[place], caption.text)
        return outcome

    def report(self) -> dict[str, Any]:
        problems = dict(sorted(self.problems.items()))
        return {"captions": {**self.identity(), "captioned": self.captioned, "not_captioned": problems}}

    def state(self) -> dict[str, Any]:
        return {"captioned": self.captioned, "problems": dict(self.problems)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.captioned, self.problems = state["captioned"], Counter(state["problems"])

    def _labelled(self, sample: Sample, text: str) -> Sample:
        origin = {**origins(sample), "txt": {"weak": True, **self.identity()}}
        made = {"txt": text.encode(), ORIGIN: json.dumps(origin, sort_keys=True, ensure_ascii=False).encode()}
        return replace(sample, members={**sample.members, **made})

"""Evaluation: the measurements one by one, each adding to the findings its figures and the examples to show."""

import json
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import torch

from datamodules.modalities.build import build_modalities
from modules.assistant import Assistant
from modules.embedder import Embedder
from modules.objectives.completion import Completion
from stages.embedding import embed_set
from stages.evaluate import answers, retrieval, runs, sets, subtitles, zero_shot
from stages.evaluate.answers import Answer
from stages.evaluate.findings import Findings
from stages.evaluate.joint_retrieval import Completed, by_mean, joint_recalls

EXAMPLES_PER_TASK = 4


@dataclass
class Evaluation:
    """How to measure, and what was found so far."""

    device: torch.device
    batch_size: int
    examples: int
    draw: random.Random
    findings: Findings = field(default_factory=Findings)

    def retrieve(self, embedder: Embedder, shards: Path, completion: Completion | None = None) -> None:
        """Measure retrieval between every two modalities, and by several at once, of which one may be missing."""
        modalities = build_modalities(embedder.input_configs)
        space = embed_set(embedder, shards, modalities, batch_size=self.batch_size, device=self.device)
        contents = sets.read_contents(shards, modalities)
        self.findings.metrics["retrieval"] = retrieval.recalls(space, contents)
        if joint := joint_recalls(space, by_mean, contents):
            self.findings.metrics["joint_retrieval"] = {"mean": joint}
            if completion is not None:
                completed = joint_recalls(space, Completed(completion), contents)
                self.findings.metrics["joint_retrieval"]["completion"] = completed
        self.findings.members = {name: tuple(modality.members) for name, modality in modalities.items()}
        self.findings.searches = retrieval.examples(space, self.draw, self.examples, contents)
        self.findings.found = sets.read_samples(shards, retrieval.shown(self.findings.searches))

    def classify(
        self, name: str, embedder: Embedder, shards: Path, modality: str, templates: list[str]
    ) -> None:
        """Measure how well classes are told that are only described."""
        predictions = zero_shot.classify(
            embedder,
            shards,
            modality,
            classes=sets.read_entry(shards, "classes"),
            templates=templates,
            batch_size=self.batch_size,
            device=self.device,
        )
        self.findings.zero_shot[name] = predictions
        self.findings.metrics.setdefault("zero_shot", {})[name] = predictions.scores()

    def ask(self, assistant: Assistant, shards: Path, descriptions: list[str], max_new_tokens: int) -> None:
        """Measure the answers to instructions, with their media and with blank ones.

        Raises:
            ValueError: when a task of `descriptions` is not in the set.
        """
        tasks = {json.loads(record).get("task") for record in sets.read_members(shards, "json").values()}
        if unknown := set(descriptions) - tasks:
            raise ValueError(
                f"descriptions names {', '.join(unknown)}; the tasks of {shards} are {', '.join(tasks)}"
            )
        answered = self._answers(assistant, shards, max_new_tokens)
        blind = self._answers(assistant, shards, max_new_tokens, show=answers.blank)
        self.findings.metrics["instruct"] = answers.scores(answered, blind)
        if described := [answer for answer in answered if answer.task in descriptions]:
            self.findings.metrics["descriptions"] = answers.description_scores(described)
        self.findings.answers = self._some_of_each_task(answered)
        self.findings.blind = {answer.key: answer.said for answer in blind}
        keys = [answer.key for answer in self.findings.answers]
        self.findings.asked = sets.read_samples(shards, keys)
        media = build_modalities({name: assistant.input_configs[name] for name in assistant.media})
        self.findings.asked_about = tuple(chain(*(modality.members for modality in media.values())))
        self.findings.looks = answers.looks(
            assistant, shards, keys, batch_size=self.batch_size, device=self.device
        )

    def compare(self, name: str, assistant: Assistant, shards: Path, max_new_tokens: int) -> None:
        """Measure the answers of another assistant, on any device, to the same instructions."""
        answered = self._answers(assistant.to(self.device), shards, max_new_tokens)
        baselines = self.findings.metrics["instruct"].setdefault("baselines", {})
        baselines[name] = answers.exact_match(answered)

    def read_alignment(self, shards: Path) -> None:
        """Take the errors of subtitles that their preparation measured."""
        self.findings.clips = subtitles.read_clips(shards)
        self.findings.metrics["alignment_ms"] = subtitles.scores(self.findings.clips)

    def read_runs(self, folders: Mapping[str, Path]) -> None:
        """Take the curves and configs of training runs."""
        self.findings.curves = {name: runs.read_curves(folder) for name, folder in folders.items()}
        self.findings.configs = {name: runs.read_config(folder) for name, folder in folders.items()}

    def _answers(
        self, assistant: Assistant, shards: Path, max_new_tokens: int, **show: answers.Show
    ) -> list[Answer]:
        return answers.ask(
            assistant,
            shards,
            sets.read_members(shards, "json"),
            max_new_tokens=max_new_tokens,
            batch_size=self.batch_size,
            device=self.device,
            **show,
        )

    def _some_of_each_task(self, answered: list[Answer]) -> list[Answer]:
        tasks: dict[str, list[Answer]] = defaultdict(list)
        for answer in self.draw.sample(answered, len(answered)):
            tasks[answer.task].append(answer)
        return [answer for task in sorted(tasks) for answer in tasks[task][:EXAMPLES_PER_TASK]]

"""Findings: what an evaluation found, between measuring and reporting."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stages.evaluate.answers import Answer
from stages.evaluate.retrieval import Neighbours
from stages.evaluate.runs import Curve
from stages.evaluate.subtitles import Clip
from stages.evaluate.zero_shot import Predictions

Sample = Mapping[str, bytes]
"""The raw members of a sample: suffix -> bytes."""


@dataclass
class Findings:
    """The figures, and the examples that the report shows; what was not asked for stays empty."""

    metrics: dict[str, Any] = field(default_factory=dict)
    """What metrics.json holds."""
    members: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Modality -> the suffixes it answers to."""
    searches: dict[tuple[str, str], list[Neighbours]] = field(default_factory=dict)
    """(modality that asks, modality that is searched) -> examples."""
    found: dict[str, Sample] = field(default_factory=dict)
    """The samples of these examples, by key."""
    zero_shot: dict[str, Predictions] = field(default_factory=dict)
    """What was told of each set that was classified."""
    answers: list[Answer] = field(default_factory=list)
    """Examples of answers, in a random order that does not look at whether they are right."""
    blind: dict[str, str] = field(default_factory=dict)
    """What the same assistant says to the same questions when the media are blank, by key."""
    asked: dict[str, Sample] = field(default_factory=dict)
    """The samples of these answers, by key."""
    asked_about: tuple[str, ...] = ()
    """The suffixes that the assistant's media answer to."""
    looks: dict[str, np.ndarray] = field(default_factory=dict)
    """Where in the picture some of these answers look: (height, width) in media tokens, by key."""
    clips: list[Clip] = field(default_factory=list)
    """Errors of subtitles, before and after alignment."""
    curves: dict[str, Mapping[str, Curve]] = field(default_factory=dict)
    """Run -> name of a curve -> (step, value)."""
    configs: dict[str, str] = field(default_factory=dict)
    """Run -> its config as YAML."""

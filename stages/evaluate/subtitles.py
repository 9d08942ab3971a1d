"""Errors of subtitles before and after alignment, from the times that their preparation noted."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Clip:
    """Errors of the starts of one clip's cues against their reference, in milliseconds; late is positive."""

    name: str
    before: Sequence[float]
    after: Sequence[float]


def read_clips(shards: Path) -> list[Clip]:
    """Return the clips of a prepared set of subtitled videos whose right times are known.

    Raises:
        FileNotFoundError: when the set has no alignment.json.
        ValueError: when it cannot be read, or no clip had a reference.
    """
    file = shards / "alignment.json"
    if not file.is_file():
        raise FileNotFoundError(f"no {file}: expected a set that stages.prepare made of subtitled videos")
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))["clips"]
        clips = [
            Clip(clip["name"], _errors(clip["cues"], "before_s"), _errors(clip["cues"], "after_s"))
            for clip in listed
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is not as stages.prepare writes it ({error!r}): prepare the set again"
        ) from error
    known = [clip for clip in clips if clip.after]
    if not known:
        raise ValueError(
            f"{file} knows no right time: expected a reference (clip.reference.srt) beside the videos"
        )
    return known


def scores(clips: Sequence[Clip]) -> dict[str, float]:
    """Return median and 95th percentile of the sizes of the errors after alignment, and the median before."""
    before = np.abs(np.concatenate([clip.before for clip in clips]))
    after = np.abs(np.concatenate([clip.after for clip in clips]))
    return {
        "median": float(np.median(after)),
        "p95": float(np.percentile(after, 95)),
        "before": float(np.median(before)),
        "cues": len(after),
    }


def _errors(cues: list[dict[str, float]], moment: str) -> list[float]:
    return [round(1000 * (cue[moment] - cue["true_s"]), 3) for cue in cues if "true_s" in cue]

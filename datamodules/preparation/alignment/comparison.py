"""Methods of alignment side by side on the same clips, and their errors where the truth is known."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.preparation.alignment.aligner import Aligner, Alignment, AlignmentError, starts
from datamodules.preparation.subtitles import Cue, read_subtitles


def tried(
    aligner: Aligner,
    sound: np.ndarray,
    cues: list[Cue],
    reference: Path | None,
    aligned: Alignment | None = None,
) -> dict[str, Any]:
    """Return what a method makes of one clip: offset, rate, residual and errors, or that it refused.

    `reference` is a file with the right times; `aligned` saves the work where it is done already.
    """
    method = type(aligner).__name__
    try:
        found = aligned or aligner(sound, cues)
    except AlignmentError:
        return {"method": method, "is_refused": True}
    right = {} if reference is None else truth_of(cues, read_subtitles(reference).cues)
    known = sorted(right)
    true_s = np.array([right[index].start_s for index in known])
    return {
        "method": method,
        "is_refused": False,
        "offset_s": found.line.offset_s,
        "rate": found.line.rate,
        "residual_ms": found.residual_ms,
        "before_ms": (1000 * np.abs(starts(cues)[known] - true_s)).tolist() if known else [],
        "after_ms": (1000 * np.abs(found.starts_s[known] - true_s)).tolist() if known else [],
    }


def comparison(tries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    """Return for each method its figures over all clips that it was tried on.

    Median offset, rate and residual over the clips; median and 95th percentile of the errors over all cues whose right
    time is known, and how many of these are worse than before.
    """
    by_method: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in tries:
        by_method[one["method"]].append(one)
    return {method: figures(found) for method, found in by_method.items()}


def figures(tries: Sequence[Mapping[str, Any]]) -> dict[str, float | int | None]:
    """Return the figures of one method."""
    kept = [one for one in tries if not one["is_refused"]]
    before, after = (
        np.array([error for one in kept for error in one[moment]]) for moment in ("before_ms", "after_ms")
    )
    table: dict[str, float | int | None] = {"clips": len(kept), "refused": len(tries) - len(kept)}
    for name, digits in (("offset_s", 3), ("rate", 5), ("residual_ms", 1)):
        table[name] = round(float(np.median([one[name] for one in kept])), digits) if kept else None
    spread = spread_ms(after / 1000) if after.size else {}
    return table | {
        "median_error_ms": spread.get("median"),
        "p95_error_ms": spread.get("p95"),
        "worse_than_before": int((after > before).sum()) if after.size else None,
    }


def truth_of(cues: list[Cue], truth: list[Cue]) -> dict[int, Cue]:
    """Return for the index of each cue the right one of the same text, the first with the first."""
    of_text = defaultdict(list)
    for cue in truth:
        of_text[cue.text].append(cue)
    return {index: of_text[cue.text].pop(0) for index, cue in enumerate(cues) if of_text[cue.text]}


def spread_ms(errors_s: np.ndarray) -> dict[str, float]:
    """Return median and 95th percentile of the sizes of errors (cues,), given in seconds, in milliseconds."""
    median, p95 = np.quantile(1000 * np.abs(errors_s), (0.5, 0.95))
    return {"median": round(float(median), 1), "p95": round(float(p95), 1)}

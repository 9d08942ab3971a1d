"""Tables of a comparison: what its runs left in their metrics.json, as mean and standard deviation over seeds."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.demo import runs
from stages.demo.variants import ALIGN, FUSIONS, Variant

DIRECTIONS = (
    *("image_to_text", "text_to_image", "audio_to_text", "text_to_audio", "image_to_audio", "audio_to_image"),
)
MEAN = "mean of six"
Figures = dict[str, float]
"""Name of a figure -> its value in one seed."""
Table = dict[str, list[Figures]]
"""Name of a variant -> its figures in each seed."""


def collect(folders: Sequence[Path]) -> dict[str, Table]:
    """Return all tables of the seeds' folders; a variant that lacks a seed is left out."""
    found: dict[str, Table] = {}
    for prefix, title in (
        ("align", "objectives, image and audio encoders frozen"),
        ("live", "objectives, all encoders trained"),
    ):
        metrics = _metrics(folders, ALIGN, prefix, runs.evaluated)
        found[title] = {name: [_recalls(each) for each in several] for name, several in metrics.items()}
        found[f"one modality missing: {title}"] = {
            f"{name}; asked by {how}": [_missing(each["joint_retrieval"][how]) for each in several]
            for name, several in metrics.items()
            for how in several[0]["joint_retrieval"]
        }
    metrics = _metrics(folders, FUSIONS, "transfer", lambda run: run)
    found["fusions"] = {name: [_accuracy(each) for each in several] for name, several in metrics.items()}
    return {title: table for title, table in found.items() if table}


def markdown(tables: Mapping[str, Table]) -> str:
    """Return the tables: a row a variant, a column a figure, mean ± standard deviation over seeds.

    The last column of objectives is the difference to the first variant, seed by seed.
    """
    lines = []
    for title, table in tables.items():
        figures = list(next(iter(table.values()))[0])
        head = [title, *(name.replace("_to_", " → ") for name in figures)]
        rows = [
            [name, *(spread([run[figure] for run in several]) for figure in figures)]
            for name, several in table.items()
        ]
        if MEAN in figures:
            first = next(iter(table.values()))
            head.append("against the first")
            for row, several in zip(rows, table.values(), strict=True):
                gains = [run[MEAN] - base[MEAN] for run, base in zip(several, first, strict=True)]
                row.append(spread(gains, sign="+") if several is not first else "")
        lines += [_row(head), "|---" * len(head) + "|", *map(_row, rows), ""]
    return "\n".join(lines)


def spread(values: Sequence[float], sign: str = "") -> str:
    """Return mean ± standard deviation, of many values, to three places."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{sign}.3f} ± {deviation:.3f}"


def _metrics(
    folders: Sequence[Path], variants: Iterable[Variant], prefix: str, place: Any
) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for variant in variants:
        places = [place(folder / f"{prefix}-{variant.slug}") for folder in folders]
        if all((each / "metrics.json").is_file() for each in places):
            found[variant.name] = [runs.read_metrics(each) for each in places]
    return found


def _recalls(metrics: Mapping[str, Any]) -> Figures:
    recalls = {name: metrics["retrieval"][name]["recall_at_1"] for name in DIRECTIONS}
    return {**recalls, MEAN: statistics.mean(recalls.values())}


def _missing(joint: Mapping[str, Any]) -> Figures:
    """Return the recall of every modality that is searched, of all that ask and with each of them missing.

    In the mean of what is kept a share above 1 counts as 1: where the mean of two asks worse than one of them, the loss
    of the other is a gain, which must not make up for losses elsewhere.
    """
    figures = {}
    for searched, scores in joint.items():
        figures[searched] = scores["recall_at_1"]
        figures |= {f"{searched}, no {missing}": recall for missing, recall in scores["without"].items()}
    kept = [min(1.0, share) for scores in joint.values() for share in scores["kept"].values()]
    return {**figures, "kept, mean": statistics.mean(kept), "kept, least": min(kept)}


def _accuracy(metrics: Mapping[str, Any]) -> Figures:
    return {"accuracy": metrics["val/accuracy"], "macro F1": metrics["val/macro_f1"]}


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"

"""Outcome: what the demo's stages left, as one metrics.json, one table, and the list of what is not good enough."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def collect(files: Mapping[str, Path], seconds: Mapping[str, float]) -> dict[str, Any]:
    """Merge what the stages left in their own metrics.json into the demo's.

    Args:
        files: the metrics.json of each step, by name.
        seconds: that each step took, by name.
    """
    runs = {name: read(path) for name, path in files.items()}
    evaluated = runs["evaluate"]
    return {
        "pretrain": {
            name.removeprefix("pretrain-"): {
                "accuracy": run.get("val/accuracy"),
                "chance": run["chance"].get("accuracy"),
            }
            for name, run in runs.items()
            if name.startswith("pretrain-")
        },
        **evaluated,
        "compress": runs["compress"],
        "seconds": dict(seconds),
        "peak_memory_bytes": max(run.get("peak_memory_bytes", 0) for run in runs.values()),
        "seed": 0,
    }


def check(metrics: dict[str, Any]) -> Iterator[str]:
    """Yield a line for everything that is below what the demo must reach on held-out data."""
    recall = {direction: scores["recall_at_1"] for direction, scores in metrics["retrieval"].items()}
    for direction, least in {
        "image_to_text": 0.40,
        "text_to_image": 0.40,
        "audio_to_text": 0.40,
        "text_to_audio": 0.40,
        "image_to_audio": 0.25,
        "audio_to_image": 0.25,
    }.items():
        yield from _at_least(f"R@1 {direction}", recall[direction], least)
    for name, scores in metrics["zero_shot"].items():
        yield from _at_least(f"zero-shot {name}", scores["accuracy"], 0.85)
    instruct = metrics["instruct"]
    yield from _at_least("instruct exact match", instruct["exact_match"], 0.50)
    yield from _at_least(
        "instruct above blank media", instruct["exact_match"] - instruct["blank_media"], 0.25
    )
    random = instruct["baselines"]["random encoders"]
    yield from _at_least("instruct above random encoders", instruct["exact_match"] - random, 0.10)
    yield from _at_most("subtitle error, median ms", metrics["alignment_ms"]["median"], 20)
    for direction, scores in metrics["compress"]["recall_at_1"].items():
        yield from _at_most(f"R@1 lost by int8, {direction}", scores["float32"] - scores["int8"], 0.02)
    for modality, scores in metrics["compress"]["per_modality"].items():
        yield from _at_most(f"ONNX against torch, {modality}", scores["onnx_max_difference"], 1e-4)
        size = scores["size_bytes"]
        yield from _at_most(f"int8 size over float32, {modality}", size["int8"] / size["float32"], 0.99)


def table(metrics: dict[str, Any]) -> str:
    """Return one line a stage: seconds, and what it learned against chance."""
    lines = [("stage", "seconds", "held-out figure", "reached", "chance")]
    seconds = metrics["seconds"]
    names = {"image": "digit shown", "audio": "word spoken", "text": "hidden token", "lm": "next token"}
    alignment = metrics["alignment_ms"]
    lines += [("data", _seconds(seconds["data"]), "", "", "")]
    before = f"{alignment['before']:.0f} ms"
    lines += [
        (
            "prepare",
            _seconds(seconds["prepare"]),
            "subtitle error, median",
            f"{alignment['median']:.1f} ms",
            before,
        )
    ]
    for name, scores in metrics["pretrain"].items():
        row = (f"pretrain {name}", _seconds(seconds[f"pretrain-{name}"]), names[name])
        lines += [(*row, _share(scores["accuracy"]), _share(scores["chance"]))]
    for index, (direction, scores) in enumerate(metrics["retrieval"].items()):
        stage = ("align", _seconds(seconds["align"])) if index == 0 else ("", "")
        lines += [
            (
                *stage,
                f"R@1 {direction.replace('_', ' ')}",
                _share(scores["recall_at_1"]),
                _share(scores["chance"]),
            )
        ]
    for name, scores in metrics["zero_shot"].items():
        lines += [("", "", f"zero-shot {name}", _share(scores["accuracy"]), _share(scores["chance"]))]
    instruct = metrics["instruct"]
    lines += [
        (
            "instruct",
            _seconds(seconds["instruct"]),
            "exact match",
            _share(instruct["exact_match"]),
            _share(instruct["chance"]),
        )
    ]
    lines += [("", "", "  given blank media", _share(instruct["blank_media"]), "")]
    random = _share(instruct["baselines"]["random encoders"])
    lines += [("", _seconds(seconds["instruct-random"]), "  trained on random encoders", random, "")]
    lines += [
        (
            "evaluate",
            _seconds(seconds["evaluate"]),
            "BLEU of descriptions",
            f"{metrics['descriptions']['bleu']:.2f}",
            "",
        )
    ]
    sizes = [scores["size_bytes"] for scores in metrics["compress"]["per_modality"].values()]
    ratio = sum(size["int8"] for size in sizes) / sum(size["float32"] for size in sizes)
    lines += [("compress", _seconds(seconds["compress"]), "int8 size of float32", _share(ratio), "")]
    lines += [("all", _seconds(seconds["all"]), "", "", "")]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    aligned = [
        "  ".join(
            cell.rjust(w) if column in (1, 3, 4) else cell.ljust(w)
            for column, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([aligned[0], "-" * len(aligned[0]), *aligned[1:]])


def _at_least(name: str, value: float, least: float) -> Iterator[str]:
    if not value >= least:
        yield f"{name}: {value:.3f}, at least {least}"


def _at_most(name: str, value: float, most: float) -> Iterator[str]:
    if not value <= most:
        yield f"{name}: {value:.4g}, at most {most}"


def _seconds(value: float) -> str:
    return f"{value:.0f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def read(path: Path) -> dict[str, Any]:
    """Return a JSON file's content, nothing where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

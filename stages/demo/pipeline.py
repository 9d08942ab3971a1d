"""The demo: every stage's own command in order, then one table, one report, and the thresholds it must reach."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.cli import write_json

ROOT = Path("runs/demo")
"""Where the configs of the demo put everything."""


@dataclass(frozen=True)
class Step:
    """One command of the pipeline, and the file below ROOT that says it is done."""

    name: str
    arguments: str
    done: str


def _fit(name: str, config: str) -> Step:
    return Step(name, f"stages.{Path(config).parent.name} fit --config {config}", f"{name}/metrics.json")


STEPS: tuple[tuple[Step, ...], ...] = (
    (Step("data", "stages.demo data --out runs/demo/raw", "raw/made.json"),),
    (
        Step(
            "prepare",
            "stages.prepare --config configs/prepare/spoken_scenes.yaml",
            "shards/videos/manifest.json",
        ),
    ),
    (
        _fit("pretrain-image", "configs/pretrain/image_supervised.yaml"),
        _fit("pretrain-audio", "configs/pretrain/audio_supervised.yaml"),
    ),
    (
        _fit("pretrain-text", "configs/pretrain/text_masked.yaml"),
        _fit("pretrain-lm", "configs/pretrain/text_causal.yaml"),
    ),
    (_fit("align", "configs/align/infonce.yaml"),),
    (
        _fit("instruct", "configs/instruct/spoken_scenes.yaml"),
        _fit("instruct-random", "configs/instruct/random_encoders.yaml"),
    ),
    (
        Step(
            "evaluate",
            "stages.evaluate --config configs/evaluate/spoken_scenes.yaml",
            "evaluate/metrics.json",
        ),
        Step(
            "compress",
            "stages.compress --config configs/compress/spoken_scenes.yaml",
            "compress/metrics.json",
        ),
    ),
)
"""In order; steps of one group need nothing of one another and run side by side."""


def run() -> None:
    """Run every stage on the embedded data under runs/demo, going on where an earlier run stopped.

    Raises:
        FileNotFoundError: when the present folder is not the project's own.
        SystemExit: with a stage's exit code when one fails; 1 when a threshold is not reached.
    """
    if not Path("configs/prepare").is_dir():
        raise FileNotFoundError(f"no configs/ in {Path.cwd()}: run the demo in the project's own folder")
    seconds = _read(ROOT / "seconds.json")
    started = time.monotonic()
    for number, group in enumerate(STEPS, 1):
        print(f"\n[{number}/{len(STEPS)}]", flush=True)
        for step in group:
            print(f"$ python -m {step.arguments}", flush=True)
        left = [step for step in group if step.name not in seconds or not (ROOT / step.done).exists()]
        for step in group:
            if step not in left:
                print(f"{step.name}: done before, in {seconds[step.name]:.0f} s")
        seconds |= run_together(left)
        seconds["all"] = round(seconds.get("all", 0) + time.monotonic() - started, 1)
        started = time.monotonic()
        write_json(ROOT / "seconds.json", seconds)
    metrics = collect(seconds)
    write_json(ROOT / "metrics.json", metrics)
    shutil.copyfile(ROOT / "evaluate/report.html", ROOT / "report.html")
    print("\n" + table(metrics))
    print(
        f"\nreport  {ROOT / 'report.html'}\nserve   python -m stages.serve --config configs/serve/spoken_scenes.yaml"
    )
    if failed := list(check(metrics)):
        print("\nbelow what the demo must reach:\n  " + "\n  ".join(failed), file=sys.stderr)
        raise SystemExit(1)


def run_together(steps: Sequence[Step]) -> dict[str, float]:
    """Run the steps' commands, side by side where there are several, and return the seconds each took.

    A single command writes to the terminal; several write to `runs/demo/output/<step>.log` and are summed up in
    one line. The CPU's cores are shared out between them.

    Raises:
        SystemExit: with the exit code of the first that failed, when all have ended.
    """
    cores = max(1, (os.cpu_count() or 1) // max(1, len(steps)))
    # Threads that spin while they wait take the cores from the processes that have something to do.
    environment = {
        "OMP_NUM_THREADS": str(cores),
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        "PYTHONUNBUFFERED": "1",
    }
    output = ROOT / "output"
    output.mkdir(parents=True, exist_ok=True)
    running: dict[Step, subprocess.Popen[bytes]] = {}
    started = time.monotonic()
    for step in steps:
        command = [sys.executable, "-m", *shlex.split(step.arguments)]
        with open(output / f"{step.name}.log", "wb") as file:
            log = None if len(steps) == 1 else file
            running[step] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    seconds: dict[str, float] = {}
    try:
        while len(seconds) < len(steps):
            time.sleep(0.2)
            for step in [step for step, process in running.items() if process.poll() is not None]:
                seconds.setdefault(step.name, round(time.monotonic() - started, 1))
            if len(steps) > 1:
                _show(
                    [f"{step.name} {_progress(output / f'{step.name}.log')}" for step in steps],
                    len(seconds) == len(steps),
                )
    except KeyboardInterrupt:
        for process in running.values():
            process.wait()  # the terminal sent Ctrl-C to them as well: they save and end
    for step, process in running.items():
        if code := process.wait():
            if len(steps) > 1:
                print((output / f"{step.name}.log").read_text(errors="replace")[-3000:], file=sys.stderr)
            print(
                f"\n{step.name} ended with exit code {code}; the same command goes on from there",
                file=sys.stderr,
            )
            raise SystemExit(code)
    return seconds


def _show(parts: list[str], last: bool) -> None:
    """Print one line over the one before on a terminal; elsewhere the last one alone."""
    line = "  ".join(part.ljust(28) for part in parts)
    if sys.stderr.isatty():
        print(f"\r{line}", end="\n" if last else "", file=sys.stderr, flush=True)
    elif last:
        print(line, flush=True)


def _progress(log: Path) -> str:
    """Return the last share that a progress bar wrote."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4000))
        found = re.findall(rb"(\d+)%\|", file.read())
    return f"{found[-1].decode()} %" if found else "…"


def collect(seconds: dict[str, float]) -> dict[str, Any]:
    """Merge what the stages left in their own metrics.json into the demo's."""
    runs = {
        step.name: _read(ROOT / step.done)
        for group in STEPS
        for step in group
        if Path(step.done).name == "metrics.json"
    }
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
        "seconds": seconds,
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


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

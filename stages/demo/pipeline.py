"""The demo: every stage's own command in order, then one table, one report, and the thresholds it must reach."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.cli import write_json
from stages.demo.outcome import check, collect, read, table

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
    seconds = read(ROOT / "seconds.json")
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
    metrics = collect(metrics_files(), seconds)
    write_json(ROOT / "metrics.json", metrics)
    shutil.copyfile(ROOT / "evaluate/report.html", ROOT / "report.html")
    print("\n" + table(metrics))
    print(
        f"\nreport  {ROOT / 'report.html'}\nserve   python -m stages.serve --config configs/serve/spoken_scenes.yaml"
    )
    if failed := list(check(metrics)):
        print("\nbelow what the demo must reach:\n  " + "\n  ".join(failed), file=sys.stderr)
        raise SystemExit(1)


def metrics_files() -> dict[str, Path]:
    """Return the metrics.json of every step that leaves one, by the step's name."""
    steps = [step for group in STEPS for step in group]
    return {step.name: ROOT / step.done for step in steps if Path(step.done).name == "metrics.json"}


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

"""Ablation: what each stage is worth, by training the next one with and without it, at equal steps."""

import copy
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.cli import write_json

PRETRAIN = {
    "image": "pretrain/image_supervised",
    "audio": "pretrain/audio_supervised",
    "text": "pretrain/text_masked",
    "lm": "pretrain/text_causal",
    "image-masked": "pretrain/image_masked",
    "audio-masked": "pretrain/audio_masked",
}


@dataclass(frozen=True)
class Start:
    """Where a stage's encoders come from: modality -> run whose part is taken; untrained keeps the shape alone."""

    name: str
    runs: dict[str, str]
    untrained: bool = False


ALIGN = (
    Start(
        "random",
        {"image": "pretrain-image", "audio": "pretrain-audio", "text": "pretrain-text"},
        untrained=True,
    ),
    Start(
        "masked",
        {"image": "pretrain-image-masked", "audio": "pretrain-audio-masked", "text": "pretrain-text"},
    ),
    Start("supervised", {"image": "pretrain-image", "audio": "pretrain-audio", "text": "pretrain-text"}),
)
INSTRUCT = (
    Start("random", {"image": "pretrain-image", "audio": "pretrain-audio"}, untrained=True),
    Start("pretrained", {"image": "pretrain-image", "audio": "pretrain-audio"}),
    Start("aligned", {"image": "align-supervised", "audio": "align-supervised"}),
)


def ablate(seeds: int = 3, out: Path = Path("runs/ablation")) -> None:
    """Train align and instruct from differently made encoders, at equal steps, and print mean and spread.

    Needs the data and shards of `make demo`. Goes on where an earlier run stopped.

    Args:
        seeds: How many seeds each.
        out: Folder of all the runs; `table.md` and `table.json` are written there.

    Raises:
        FileNotFoundError: when the demo's shards are not there.
    """
    if not Path("runs/demo/shards/scenes-test/manifest.json").is_file():
        raise FileNotFoundError("no runs/demo/shards: run `make demo` first, the ablation uses its data")
    # One seed a core: small models gain little from a second one.
    with ThreadPoolExecutor(os.cpu_count()) as lanes:
        list(lanes.map(lambda seed: _train_all(out / str(seed), seed), range(seeds)))
    results = {
        "align": {
            start.name: [_retrieval(out / str(s) / f"align-{start.name}") for s in range(seeds)]
            for start in ALIGN
        },
        "instruct": {
            start.name: [_answers(out / str(s) / f"instruct-{start.name}") for s in range(seeds)]
            for start in INSTRUCT
        },
    }
    write_json(out / "table.json", results)
    table = markdown(results)
    (out / "table.md").write_text(table, encoding="utf-8")
    print("\n" + table)


def _train_all(folder: Path, seed: int) -> None:
    for name, config in PRETRAIN.items():
        _fit(config, folder / f"pretrain-{name}", seed, {})
    for start in ALIGN:
        run = folder / f"align-{start.name}"
        _fit("align/infonce", run, seed, _encoders(folder, start))
        _evaluate(run, {"aligned": str(run / "parts"), "assistant": None})
    for start in INSTRUCT:
        run = folder / f"instruct-{start.name}"
        _fit(
            "instruct/spoken_scenes",
            run,
            seed,
            _encoders(folder, start),
            folder / "pretrain-lm/parts/encoders.text",
        )
        _evaluate(run, {"aligned": None, "assistant": str(run / "parts")})


def _encoders(folder: Path, start: Start) -> dict[str, Any]:
    class_path = "modules.parts.untrained" if start.untrained else "modules.parts.load"
    return {
        modality: {
            "class_path": class_path,
            "init_args": {"path": str(folder / run / f"parts/encoders.{modality}")},
        }
        for modality, run in start.runs.items()
    }


def _fit(
    config: str, run: Path, seed: int, encoders: dict[str, Any], language_model: Path | None = None
) -> None:
    """Run a stage's own command with the demo's config, but for its start, its seed and its run directory."""
    content = copy.deepcopy(yaml.safe_load(Path("configs", f"{config}.yaml").read_text(encoding="utf-8")))
    content |= {"run_dir": str(run), "seed_everything": seed}
    content["data"]["seed"] = seed
    if encoders:
        content["model"]["encoders"] = encoders
    if language_model:
        content["model"]["language_model"]["init_args"]["path"] = str(language_model)
    _command(f"stages.{config.partition('/')[0]}", content, run, ["fit"], run / "metrics.json")


def _evaluate(run: Path, changes: dict[str, Any]) -> None:
    content = yaml.safe_load(Path("configs/evaluate/spoken_scenes.yaml").read_text(encoding="utf-8"))
    out = _evaluated(run)
    content |= {**changes, "out": str(out), "baselines": None, "curves": None, "alignment": None}
    _command("stages.evaluate", content, out, [], out / "metrics.json")


def _command(module: str, content: dict[str, Any], run: Path, subcommand: list[str], done: Path) -> None:
    if done.is_file():
        return
    config = run.parent / "configs" / f"{run.name}.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    arguments = ["-m", module, *subcommand, "--config", str(config)]
    print(f"$ python {' '.join(arguments)}", flush=True)
    with open(config.with_suffix(".log"), "wb") as log:
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        code = subprocess.run(
            [sys.executable, *arguments], stdout=log, stderr=log, env=environment
        ).returncode
    if code:
        raise ValueError(
            f"python {' '.join(arguments)} ended with exit code {code}: {config.with_suffix('.log')} says why"
        )


def _evaluated(run: Path) -> Path:
    return run.with_name(f"{run.name}-evaluated")


def _metrics(run: Path) -> dict[str, Any]:
    return json.loads((_evaluated(run) / "metrics.json").read_text(encoding="utf-8"))


def _retrieval(run: Path) -> dict[str, float]:
    return {
        name.replace("_", " "): scores["recall_at_1"] for name, scores in _metrics(run)["retrieval"].items()
    }


def _answers(run: Path) -> dict[str, float]:
    instruct = _metrics(run)["instruct"]
    tasks = {name.replace("_", " "): scores["exact_match"] for name, scores in instruct["per_task"].items()}
    return {"exact match, all kinds": instruct["exact_match"], **tasks}


def markdown(results: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """Return a table for each stage: a row a figure, a column a start, mean and standard deviation over seeds."""
    lines = []
    for stage, starts in results.items():
        lines += [
            f"| {stage} from … encoders | " + " | ".join(starts) + " |",
            "|---" * (len(starts) + 1) + "|",
        ]
        for figure in next(iter(starts.values()))[0]:
            cells = [_mean_and_spread([run[figure] for run in runs]) for runs in starts.values()]
            lines.append(f"| {figure} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _mean_and_spread(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {spread:.2f}"

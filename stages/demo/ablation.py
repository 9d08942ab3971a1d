"""Ablation: what each stage is worth, by training the next one with and without it, at equal steps."""

import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.cli import write_json
from stages.demo import runs

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
    runs.check_data()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
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
        runs.fit(config, folder / f"pretrain-{name}", seed, {})
    for start in ALIGN:
        run = folder / f"align-{start.name}"
        runs.fit("align/infonce", run, seed, {"model.encoders": _encoders(folder, start)})
        runs.evaluate(run, {"aligned": str(run / "parts"), "assistant": None})
    for start in INSTRUCT:
        run = folder / f"instruct-{start.name}"
        language_model = str(folder / "pretrain-lm/parts/encoders.text")
        starts = {
            "model.encoders": _encoders(folder, start),
            "model.language_model.init_args.path": language_model,
        }
        runs.fit("instruct/spoken_scenes", run, seed, starts)
        runs.evaluate(run, {"aligned": None, "assistant": str(run / "parts")})


def _encoders(folder: Path, start: Start) -> dict[str, Any]:
    return {
        modality: runs.part(folder / run / f"parts/encoders.{modality}", start.untrained)
        for modality, run in start.runs.items()
    }


def _retrieval(run: Path) -> dict[str, float]:
    retrieval = runs.read_metrics(runs.evaluated(run))["retrieval"]
    return {name.replace("_", " "): scores["recall_at_1"] for name, scores in retrieval.items()}


def _answers(run: Path) -> dict[str, float]:
    instruct = runs.read_metrics(runs.evaluated(run))["instruct"]
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

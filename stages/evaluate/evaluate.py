"""evaluate: what the command line takes, what is refused, and the order of the measurements."""

import random
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from stages.cli import write_json


@dataclass
class ZeroShot:
    """A set to classify by descriptions of its classes."""

    shards: Path
    """Prepared from folders by class: every sample has a class, and the manifest names the classes."""
    modality: str
    """What is classified: image, audio, or another that the encoders know."""
    templates: list[str] = field(default_factory=lambda: ["{}"])
    """Prompts with {} where the name of a class goes; what a class is embedded as is their mean."""


def evaluate(
    out: Path,
    aligned: Path | None = None,
    retrieval: Path | None = None,
    zero_shot: dict[str, ZeroShot] | None = None,
    assistant: Path | None = None,
    instructions: Path | None = None,
    baselines: dict[str, Path] | None = None,
    descriptions: list[str] | None = None,
    alignment: Path | None = None,
    curves: dict[str, Path] | None = None,
    batch_size: int = 64,
    max_new_tokens: int = 48,
    examples: int = 4,
    allow: list[str] | None = None,
    seed: int = 0,
) -> None:
    """Measure what was learned on held-out data, and write metrics.json and report.html.

    What is given is measured; without `aligned` there is no retrieval and no zero-shot, without `assistant` no answers.

    Args:
        out: Folder for metrics.json and report.html.
        aligned: The parts/ folder of an align run.
        retrieval: Shards of held-out samples with several modalities.
        zero_shot: Sets to classify by descriptions of their classes, by name.
        assistant: The parts/ folder of an instruct run.
        instructions: Shards of held-out instructions.
        baselines: The parts/ folders of other instruct runs that answer the same, by name.
        descriptions: Tasks of the instructions whose answers are descriptions; BLEU and ROUGE are theirs.
        alignment: Shards of subtitled videos, whose manifest holds the errors of their subtitles.
        curves: Run directories whose training curves and configs the report shows, by name.
        batch_size: Samples at once; does not change the figures.
        max_new_tokens: Longer answers are cut.
        examples: Queries that the report shows in each direction, drawn at random.
        allow: Packages outside this project whose classes a part may name.
        seed: Of the choice of examples; the figures do not depend on it.

    Raises:
        FileNotFoundError: when a folder is not there, or holds no shards.
        ValueError: when a part is missing or damaged, a set is empty, or nothing is asked for.
    """
    started = time.monotonic()
    retrieval, zero_shot = (retrieval, zero_shot or {}) if aligned else (None, {})
    instructions, baselines = (instructions, baselines or {}) if assistant and instructions else (None, {})
    curves = curves or {}
    shards = [retrieval, instructions, alignment, *(asked.shards for asked in zero_shot.values())]
    _check([path for path in shards if path], zero_shot, curves, batch_size)

    from modules.assistant import Assistant
    from modules.embedder import Embedder
    from stages.evaluate import machine, report
    from stages.evaluate.evaluation import Evaluation
    from stages.evaluate.joint_retrieval import load_completion

    device = machine.device()
    embedder = Embedder.load(aligned, allow).to(device) if retrieval or zero_shot else None
    completion = load_completion(aligned, embedder) if retrieval else None
    _check_modalities(zero_shot, embedder.encoders if embedder else ())
    speaker = Assistant.load(assistant, allow).to(device) if instructions else None
    others = {name: Assistant.load(folder, allow) for name, folder in baselines.items()}

    evaluation = Evaluation(device, batch_size, examples, random.Random(seed))
    if retrieval:
        evaluation.retrieve(embedder, retrieval, completion)
    for name, asked in zero_shot.items():
        evaluation.classify(name, embedder, asked.shards, asked.modality, asked.templates)
    if instructions:
        evaluation.ask(speaker, instructions, descriptions or [], max_new_tokens)
        for name, other in others.items():
            evaluation.compare(name, other, instructions, max_new_tokens)
    if alignment:
        evaluation.read_alignment(alignment)
    evaluation.read_runs(curves)

    findings = evaluation.findings
    findings.metrics |= {
        "seconds": round(time.monotonic() - started, 2),
        "peak_memory_bytes": machine.peak_memory_bytes(),
        "versions": machine.versions(),
        "seed": seed,
    }
    report.write(findings, out / "report.html")
    write_json(out / "metrics.json", findings.metrics)  # last: it says that the evaluation is finished
    print(f"{out / 'metrics.json'}\n{out / 'report.html'}")


def _check(
    shards: list[Path], zero_shot: dict[str, ZeroShot], curves: dict[str, Path], batch_size: int
) -> None:
    from datamodules.shards.reader import find_shards
    from stages.evaluate.sets import read_entry

    if not shards:
        raise ValueError(
            "nothing to measure: expected `aligned` with `retrieval` or `zero_shot`, "
            "`assistant` with `instructions`, or `alignment`"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: expected 1 or more")
    for folder in shards:
        find_shards(folder)
    for name, asked in zero_shot.items():
        read_entry(asked.shards, "classes")
        if not asked.templates or not all("{}" in template for template in asked.templates):
            raise ValueError(
                f"zero_shot.{name}.templates is {asked.templates}: expected prompts, each with {{}}"
            )
    for name, folder in curves.items():
        if not folder.is_dir():
            raise FileNotFoundError(
                f"curves.{name}: no run directory at {folder}; expected one that a training left"
            )


def _check_modalities(zero_shot: dict[str, ZeroShot], known: Collection[str]) -> None:
    for name, asked in zero_shot.items():
        missing = {asked.modality, "text"} - set(known)
        if missing:
            raise ValueError(
                f"zero_shot.{name} needs encoders of {asked.modality} and text; "
                f"`aligned` has {', '.join(sorted(known))}"
            )

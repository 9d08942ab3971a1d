"""Runs of the demo's own configs with something changed, as comparisons need them: a command each, and none twice."""

import copy
import json
import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

# The commands of a comparison take seconds, and so do their imports: they are forked from one process that has them.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["stages.training", "transformers.models.auto.modeling_auto"])

SHARDS = Path("runs/demo/shards")
"""Where `make demo` leaves its data."""


def check_data() -> None:
    """Refuse to compare anything where there is nothing to learn from.

    Raises:
        FileNotFoundError: when the demo's shards are not there.
    """
    if not (SHARDS / "scenes-test/manifest.json").is_file():
        raise FileNotFoundError(f"no {SHARDS}: run `make demo` first, the comparison uses its data")


def fit(config: str, run: Path, seed: int, changes: Mapping[str, Any]) -> None:
    """Run a training stage's own command with a config of the demo, but for its seed, run directory and changes.

    Args:
        config: such as `align/infonce`, below `configs/`.
        run: run directory; a finished one is left as it is, an unfinished one is gone on with.
        seed: of weights and of the order of samples.
        changes: key with dots, such as `model.objective` -> what stands there instead.
    """
    content = changed(config, {"run_dir": str(run), "seed_everything": seed, "data.seed": seed, **changes})
    command(f"stages.{config.partition('/')[0]} fit", content, run, done=run / "metrics.json")


def evaluate(run: Path, changes: Mapping[str, Any]) -> None:
    """Measure a run on the demo's held-out sets, beside it."""
    out = evaluated(run)
    left_out = dict.fromkeys(("baselines", "curves", "alignment"))
    content = changed("evaluate/spoken_scenes", {**left_out, **changes, "out": str(out)})
    command("stages.evaluate", content, out, done=out / "metrics.json")


def evaluated(run: Path) -> Path:
    """Return the folder of a run's evaluation."""
    return run.with_name(f"{run.name}-evaluated")


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the metrics.json of a run or of an evaluation."""
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def prepare(config: str, out: Path, changes: Mapping[str, Any]) -> None:
    """Run prepare with a config of the demo, but for its folder and changes."""
    content = changed(config, {"out": str(out), "workers": 1, **changes})
    last = list(content["sets"])[-1]
    command("stages.prepare", content, out, done=out / last / "manifest.json")


def part(path: Path, untrained: bool = False) -> dict[str, Any]:
    """Return how a config names a part; untrained keeps its shape alone."""
    class_path = "modules.parts.untrained" if untrained else "modules.parts.load"
    return {"class_path": class_path, "init_args": {"path": str(path)}}


def cached(path: Path) -> dict[str, Any]:
    """Return how a config names an encoder whose features are in the shards."""
    return {"class_path": "modules.encoders.cached.CachedEncoder", "init_args": {"path": str(path)}}


def feature_cache(path: Path, cache: Path | None = None) -> dict[str, Any]:
    """Return the step of prepare that puts an encoder's features in place of its media."""
    init_args = {"encoder": str(path), "keep_media": False, "cache": str(cache) if cache else None}
    return {"class_path": "stages.prepare.features.FeatureCache", "init_args": init_args}


def changed(config: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a config below `configs/`, with other values at some keys.

    Raises:
        KeyError: when a key's parent is not in the config.
    """
    content = yaml.safe_load(Path("configs", f"{config}.yaml").read_text(encoding="utf-8"))
    for key, value in changes.items():
        *parents, last = key.split(".")
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = copy.deepcopy(value)  # a value that two keys share would become a YAML alias
    return content


def command(arguments: str, content: dict[str, Any], run: Path, done: Path) -> None:
    """Run `python -m <arguments> --config <content>` unless `done` is there; its output goes into a log.

    Raises:
        ValueError: when it fails; names the log.
    """
    if done.is_file():
        return
    config = run.parent / "configs" / f"{run.name}.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    module, *rest = [*arguments.split(), "--config", str(config)]
    line = f"python -m {module} {' '.join(rest)}"
    print(f"$ {line}", flush=True)
    log = config.with_suffix(".log")
    process = _PROCESSES.Process(target=_main, args=(module, rest, log))
    process.start()
    process.join()
    if process.exitcode:
        raise ValueError(f"{line} ended with exit code {process.exitcode}: {log} says why")


def _main(module: str, arguments: list[str], log: Path) -> None:
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

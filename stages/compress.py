"""Export the aligned encoders to ONNX, in float32 and in int8, and measure size, speed and retrieval of both."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from stages.cli import command, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from modules.embedder import Embedder

VERSION: Final = 1
CARD: Final = "card.yaml"
FILES: Final = {"float32": "model.onnx", "int8": "model.int8.onnx"}
CALIBRATION_BATCHES: Final = 4
TOLERANCE: Final = 1e-4
"""How far any number of a unit vector may be from torch's."""


@dataclass(frozen=True)
class Measured:
    """One modality, exported; `vectors` (rows, dim) are torch's under "float32" and the file's under "int8"."""

    keys: list[str]
    vectors: dict[str, "Tensor"]
    figures: dict[str, Any]

    def select(self, kind: str, keys: list[str]) -> "Tensor":
        """Return the vectors (keys, dim) of these samples."""
        places = {key: row for row, key in enumerate(self.keys)}
        return self.vectors[kind][[places[key] for key in keys]]


def compress(
    aligned: Path,
    calibration: Path,
    retrieval: Path,
    out: Path,
    batch_size: int = 32,
    repeats: int = 7,
    allow: list[str] | None = None,
) -> None:
    """Write each modality of an aligned space as ONNX and as int8 ONNX, and measure what that costs.

    Args:
        aligned: The `parts/` folder of an alignment.
        calibration: Shards whose first batches set the int8 ranges of convolutions; others than `retrieval`.
        retrieval: Held-out shards, on which the files are checked against torch and recall is measured.
        out: Gets `metrics.json`, and `model.onnx`, `model.int8.onnx` and `card.yaml` in one folder a modality.
        batch_size: Samples at once; milliseconds are those of one such batch.
        repeats: Timings of each file, of which the median counts.
        allow: Packages outside this project whose classes a part may name.

    Raises:
        ValueError: the export extra is not installed, a part or the shards are not what they should be, or an
            ONNX file disagrees with torch.
    """
    if batch_size < 2 or repeats < 1:
        raise ValueError(f"found batch_size {batch_size} and repeats {repeats}, expected at least 2 and 1")
    from modules.embedder import Embedder
    from modules.export import require_export

    require_export()
    embedder = Embedder.load(aligned, allow)
    measured = {}
    for modality in embedder.input_configs:
        folder = out / modality
        export(embedder, modality, inputs_of(embedder, modality, calibration, batch_size), folder)
        measured[modality] = measure(embedder, modality, retrieval, folder, batch_size, repeats)
    for modality in measured:
        write_card(embedder, modality, aligned, out / modality)
    metrics = {
        "per_modality": {modality: found.figures for modality, found in measured.items()},
        "recall_at_1": recall_at_1(measured),
        "batch_size": batch_size,
    }
    metrics["total"] = totals(metrics)
    write_json(out / "metrics.json", metrics)
    print(table(metrics))


def export(embedder: "Embedder", modality: str, inputs: Iterator[Any], folder: Path) -> None:
    """Write both files of a modality into a folder, which has no card until they are checked."""
    from modules.export import export_onnx, quantize_int8

    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    examples = [some for _, some in islice(inputs, CALIBRATION_BATCHES)]
    export_onnx(embedder, modality, examples[0], folder / FILES["float32"])
    quantize_int8(folder / FILES["float32"], folder / FILES["int8"], examples)


def measure(
    embedder: "Embedder", modality: str, retrieval: Path, folder: Path, batch_size: int, repeats: int
) -> Measured:
    """Check every held-out batch of a modality's files against torch, and time them on the first.

    Raises:
        ValueError: when the shards lack the modality, or the float32 file disagrees with torch.
    """
    import torch

    from modules.export import OnnxModel

    paths = {kind: folder / name for kind, name in FILES.items()}
    models = {kind: OnnxModel(path) for kind, path in paths.items()}
    keys, before, after, difference = [], [], [], 0.0
    with torch.inference_mode():
        for names, inputs in inputs_of(embedder, modality, retrieval, batch_size):
            alone = {name: tensor[:1] for name, tensor in inputs.items()}
            for some in (inputs, alone):
                apart = embedder.embed(modality, some) - models["float32"](some)
                difference = max(difference, apart.abs().max().item())
            keys += names
            before.append(embedder.embed(modality, inputs))
            after.append(models["int8"](inputs))
    if not difference <= TOLERANCE:
        raise ValueError(
            f"the ONNX file of {modality} gives vectors up to {difference:.1e} from torch's, expected at most "
            f"{TOLERANCE:.0e}: an operation of this encoder is exported wrongly; {paths['float32']} must not be used"
        )
    _, example = next(inputs_of(embedder, modality, retrieval, batch_size))
    calls = {kind: lambda model=model: model(example) for kind, model in models.items()}
    figures = {
        "size_bytes": {kind: path.stat().st_size for kind, path in paths.items()},
        "milliseconds": milliseconds(calls, repeats),
        "onnx_max_difference": difference,
    }
    return Measured(keys, {"float32": torch.cat(before), "int8": torch.cat(after)}, figures)


def inputs_of(embedder: "Embedder", modality: str, shards: Path, batch_size: int) -> Iterator[Any]:
    """Return the keys and Inputs of every batch of one modality."""
    from datamodules.modalities.build import build_modalities
    from datamodules.stream import batches

    modalities = build_modalities({modality: embedder.input_configs[modality]})
    found = batches(shards, modalities, batch_size)
    return (
        (batch.keys, batch.inputs[modality]) for batch in found if len(batch)
    )  # each sample has the modality


def milliseconds(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median time of each call, taken in turn so that a busy moment hits all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # the first call allocates
    for _ in range(repeats):
        for name, call in calls.items():
            start = perf_counter()
            call()
            seconds[name].append(perf_counter() - start)
    return {name: 1000 * median(found) for name, found in seconds.items()}


def recall_at_1(measured: Mapping[str, Measured]) -> dict[str, dict[str, float]]:
    """Return Recall@1 of `<first>_to_<second>`, before and after, for every two modalities in both directions.

    Raises:
        ValueError: when two modalities share no sample.
    """
    from modules.metrics.retrieval import RetrievalRecall

    recalls: dict[str, dict[str, float]] = {}
    for first, second in combinations(measured, 2):
        both = sorted(set(measured[first].keys) & set(measured[second].keys))
        if not both:
            raise ValueError(f"no held-out sample has both {first} and {second}: expected paired samples")
        for kind in FILES:
            metric = RetrievalRecall(ks=(1,))
            metric.update(*(measured[name].select(kind, both) for name in (first, second)))
            found = metric.compute()
            for direction, name in (
                ("forward", f"{first}_to_{second}"),
                ("backward", f"{second}_to_{first}"),
            ):
                recalls.setdefault(name, {})[kind] = found[direction]["recall_at_1"].item()
    return recalls


def totals(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sums of sizes and times over modalities, and the most that any direction loses in recall."""
    per_modality = metrics["per_modality"].values()
    sums = {
        figure: {kind: sum(found[figure][kind] for found in per_modality) for kind in FILES}
        for figure in ("size_bytes", "milliseconds")
    }
    lost = [recall["float32"] - recall["int8"] for recall in metrics["recall_at_1"].values()]
    worst = max(found["onnx_max_difference"] for found in per_modality)
    return {**sums, "recall_at_1_lost": max(lost, default=0.0), "onnx_max_difference": worst}


def write_card(embedder: "Embedder", modality: str, aligned: Path, folder: Path) -> None:
    """Write what a modality's files are, what goes into them, and the parts that they were made from."""
    import yaml

    from modules import parts

    sources = [f"encoders.{modality}", f"projections.{modality}"]
    card = {
        "version": VERSION,
        "modality": modality,
        "dim": embedder.dim,
        "input_config": embedder.input_configs[modality],
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES.values()},
        "parts": {name: parts.fingerprint(parts.read_card(aligned / name)) for name in sources},
    }
    (folder / CARD).write_text(yaml.safe_dump(card, sort_keys=False, allow_unicode=True), encoding="utf-8")


def table(metrics: Mapping[str, Any]) -> str:
    """Return the figures as text: a line a modality, and a line a direction of retrieval."""
    lines = [f"{'':<16}{'float32':>10}{'int8':>10}{'float32':>12}{'int8':>10}{'ONNX - torch':>15}"]
    for name, found in [*metrics["per_modality"].items(), ("total", metrics["total"])]:
        size, time = found["size_bytes"], found["milliseconds"]
        lines.append(
            f"{name:<16}{size['float32'] / 1e6:>7.2f} MB{size['int8'] / 1e6:>7.2f} MB"
            f"{time['float32']:>9.1f} ms{time['int8']:>7.1f} ms{found['onnx_max_difference']:>15.1e}"
        )
    lines.append(f"\n{'Recall@1':<16}{'float32':>10}{'int8':>10}")
    for name, recall in metrics["recall_at_1"].items():
        lines.append(f"{name.replace('_', ' '):<16}{recall['float32']:>10.3f}{recall['int8']:>10.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    command(compress)

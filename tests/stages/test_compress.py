"""Compress: the files equal torch, int8 is smaller, and what cannot be trusted is refused."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from datamodules.modalities.build import build_modalities
from datamodules.stream import batches
from modules import export, parts
from modules.embedder import Embedder
from stages.cli import command
from stages.compress import compress, milliseconds

MODALITIES = ("audio", "image", "text")


def arguments(aligned: Path, shards: Path, out: Path) -> list[str]:
    sets = ["--calibration", str(shards), "--retrieval", str(shards), "--out", str(out)]
    return ["--aligned", str(aligned), *sets, "--batch_size=4"]


@pytest.fixture(scope="module")
def compressed(aligned_parts: Path, scenes_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compress") / "out"
    command(compress, arguments(aligned_parts, scenes_shards, out))
    return out


@pytest.fixture(scope="module")
def metrics(compressed: Path) -> dict:
    return json.loads((compressed / "metrics.json").read_text())


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_the_onnx_file_equals_torch_at_any_number_of_rows(
    modality, rows, compressed, aligned_parts, scenes_shards
):
    embedder = Embedder.load(aligned_parts)
    model = export.OnnxModel(compressed / modality / "model.onnx")
    modalities = build_modalities({modality: embedder.input_configs[modality]})
    with torch.inference_mode():
        for batch in batches(scenes_shards, modalities, rows):
            expected = embedder.embed(modality, batch.inputs[modality])
            torch.testing.assert_close(model(batch.inputs[modality]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("modality", MODALITIES)
def test_int8_vectors_are_unit_length_and_near_but_not_equal(
    modality, compressed, aligned_parts, scenes_shards
):
    embedder = Embedder.load(aligned_parts)
    model = export.OnnxModel(compressed / modality / "model.int8.onnx")
    modalities = build_modalities({modality: embedder.input_configs[modality]})
    with torch.inference_mode():
        batch = next(iter(batches(scenes_shards, modalities, 11)))
        expected, found = embedder.embed(modality, batch.inputs[modality]), model(batch.inputs[modality])
    torch.testing.assert_close(found.norm(dim=1), torch.ones(11))
    assert ((found * expected).sum(1) > 0.99).all()
    assert not torch.equal(found, expected)


def test_metrics_hold_every_modality_and_all_six_directions(metrics):
    assert set(metrics["per_modality"]) == set(MODALITIES)
    for found in metrics["per_modality"].values():
        assert found["size_bytes"]["int8"] < found["size_bytes"]["float32"]
        assert found["milliseconds"]["int8"] > 0 < found["milliseconds"]["float32"]
        assert found["onnx_max_difference"] <= 1e-4
    directions = {f"{first}_to_{second}" for first in MODALITIES for second in MODALITIES if first != second}
    assert set(metrics["recall_at_1"]) == directions
    assert all(
        0 <= recall[kind] <= 1 for recall in metrics["recall_at_1"].values() for kind in ("float32", "int8")
    )


def test_totals_are_the_sums_and_the_worst(metrics):
    sizes = [found["size_bytes"]["int8"] for found in metrics["per_modality"].values()]
    assert metrics["total"]["size_bytes"]["int8"] == sum(sizes)
    lost = [recall["float32"] - recall["int8"] for recall in metrics["recall_at_1"].values()]
    assert metrics["total"]["recall_at_1_lost"] == max(lost)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_card_names_files_inputs_and_the_parts_they_come_from(modality, compressed, metrics, aligned_parts):
    card = yaml.safe_load((compressed / modality / "card.yaml").read_text())
    assert card["input_config"] == Embedder.load(aligned_parts).input_configs[modality]
    assert card["dim"] == 24
    for name in ("encoders", "projections"):
        part = parts.read_card(aligned_parts / f"{name}.{modality}")
        assert card["parts"][f"{name}.{modality}"] == parts.fingerprint(part)
    for kind, name in (("float32", "model.onnx"), ("int8", "model.int8.onnx")):
        file = compressed / modality / name
        assert card["sha256"][name] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert metrics["per_modality"][modality]["size_bytes"][kind] == file.stat().st_size


def test_files_name_no_path_of_this_machine(compressed):
    for path in compressed.rglob("*.onnx"):
        assert b"site-packages" not in path.read_bytes(), f"{path} holds stack traces"


def test_an_export_that_disagrees_with_torch_is_refused(
    aligned_parts, scenes_shards, tmp_path, monkeypatch, capsys
):
    def wrong(self: export.OnnxModel, inputs: dict) -> torch.Tensor:
        return torch.nn.functional.normalize(right(self, inputs) + 1e-3, dim=-1)

    right = export.OnnxModel.__call__
    monkeypatch.setattr(export.OnnxModel, "__call__", wrong)
    with pytest.raises(SystemExit) as stopped:
        command(compress, arguments(aligned_parts, scenes_shards, tmp_path))
    assert stopped.value.code == 2
    assert "from torch's, expected at most 1e-04" in capsys.readouterr().err
    assert not list(tmp_path.rglob("card.yaml")) and not (tmp_path / "metrics.json").exists()


def test_a_missing_extra_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(ValueError, match=r"onnxruntime not installed; .*pip install 'trivium\[export\]'"):
        export.require_export()


def test_a_damaged_part_is_refused_and_nothing_is_written(aligned_parts, scenes_shards, tmp_path, capsys):
    damaged = tmp_path / "parts"
    shutil.copytree(aligned_parts, damaged)
    weights = damaged / "encoders.image" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SystemExit) as stopped:
        command(compress, arguments(damaged, scenes_shards, tmp_path / "out"))
    assert stopped.value.code == 2
    assert "encoders.image" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_example_of_one_row_is_refused(aligned_parts, tmp_path):
    example = {"pixels": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)}
    with pytest.raises(ValueError, match="expected at least 2"):
        export.export_onnx(Embedder.load(aligned_parts), "image", example, tmp_path / "model.onnx")


def test_times_are_medians_of_calls_taken_in_turn():
    order = []
    found = milliseconds({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert 0 <= found["a"] < 100

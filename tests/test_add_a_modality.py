"""docs/add_a_modality.md, word for word: its file, its shards and its config, through the align stage."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

DOCUMENT = Path(__file__).parents[1] / "docs" / "add_a_modality.md"
VIT = {
    "model_type": "vit",
    "image_size": 64,
    "patch_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder with the document's files in it, on the Python path."""
    for _, name, text in re.findall(
        r"```(python|yaml)\n# (\S+\.\w+)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL
    ):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("motion", None)


def write_fewer_shards(folder: Path) -> None:
    program = (folder / "shards.py").read_text()
    fewer = program.replace("range(600)", "range(40)")
    assert fewer != program
    exec(compile(fewer, "shards.py", "exec"), {})


def test_the_document_gives_three_files_and_the_modality_is_short(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["motion.py", "motion.yaml", "shards.py"]
    code = [line for line in (folder / "motion.py").read_text().splitlines() if line.strip()]
    assert len(code) <= 60


def test_padding_and_empty_batches_leave_the_encoder_as_the_document_says(folder):
    import torch
    from motion import Motion, MotionEncoder

    modality, encoder = Motion(), MotionEncoder(dim=8, layers=1).eval()
    short, long = torch.randn(20, 3), torch.randn(50, 3)
    alone = encoder(modality.collate([short]))
    padded = encoder(modality.collate([short, long]))
    assert padded.mask.sum(1).tolist() == [2, 5]
    torch.testing.assert_close(padded.features[0, :2], alone.features[0], rtol=1e-4, atol=1e-5)
    assert encoder(modality.collate([])).features.shape == (0, 1, 8)


def test_the_modality_refuses_bytes_that_are_no_readings(folder):
    from motion import Motion

    from datamodules.modalities.bad_sample import BadSample

    for data in (b"", b"123", b"\xff" * 120):
        with pytest.raises(BadSample):
            Motion().decode(data, "imu")


def test_prepare_packs_files_side_by_side_and_leaves_out_what_the_modality_refuses(folder):
    from stages.cli import command
    from stages.prepare.prepare import prepare

    recordings = folder / "recordings"
    recordings.mkdir()
    for name, data in {"a": b"\0" * 120, "b": b"\0" * 240, "c": b"cut"}.items():
        (recordings / f"{name}.imu").write_bytes(data)
        (recordings / f"{name}.txt").write_text(name)
    [sets] = re.findall(r"```yaml\n(sets:.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (folder / "prepare.yaml").write_text("out: shards\n" + sets)
    command(prepare, ["--config", "prepare.yaml"])
    manifest = json.loads(Path("shards/train/manifest.json").read_text())
    assert (manifest["members"], manifest["dropped"]) == ({"imu": 2, "txt": 2}, {"imu length": 1})


def test_align_trains_the_modality_and_hands_its_encoder_on(folder):
    from modules import parts
    from modules.encoders.huggingface import ImageEncoder
    from stages.cli import run

    parts.save(ImageEncoder(config=VIT), "runs/demo/pretrain-image/parts/encoders.image")
    write_fewer_shards(folder)
    tiny = [
        "--trainer.max_steps=2",
        "--data.batch_size=8",
        "--data.num_workers=0",
        "--trainer.accelerator=cpu",
    ]
    run(
        "stages.align.Align", ["fit", "--config", "motion.yaml", *tiny, "--trainer.enable_progress_bar=false"]
    )

    part = Path("runs/motion/align/parts/encoders.imu")
    assert yaml.safe_load((part / "card.yaml").read_text())["class_path"] == "motion.MotionEncoder"
    assert json.loads(Path("runs/motion/align/metrics.json").read_text())
    with pytest.raises(parts.PartError, match="allow"):
        parts.load(str(part))
    snippet = re.findall(r"```yaml\n( +imu:.*?)```", DOCUMENT.read_text(), re.DOTALL)[0]
    assert parts.load(**yaml.safe_load(snippet)["imu"]["init_args"]).dim == 64

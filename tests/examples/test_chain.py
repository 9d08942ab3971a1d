"""Each example by its own configs, from raw files through all four commands, on less data and in fewer steps."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from examples.data import EXAMPLES, write

ROOT = Path(__file__).parents[2]
STEPS = {"point_cloud": (150, 200), "imu": (150, 200), "user_history": (400, 100)}
"""Of align and of instruct."""


def fit(stage: str, example: str, steps: int) -> None:
    """Run a training command of an example in the working directory."""
    from stages.cli import run

    config = ROOT / "examples" / example / f"{stage.rpartition('.')[2].lower()}.yaml"
    quick = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data.num_workers=0"]
    run(stage, ["fit", "--config", str(config), *quick, f"--trainer.max_steps={steps}"])


@pytest.fixture(scope="module", params=list(EXAMPLES))
def finished(request, tmp_path_factory) -> tuple[str, Path, dict]:
    """An example, the folder that its four commands left, and what its metrics.json holds."""
    from stages.cli import command
    from stages.evaluate.evaluate import evaluate
    from stages.prepare.prepare import prepare

    example = request.param
    configs = ROOT / "examples" / example
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp(example))
        folder = Path("runs/examples", example).absolute()
        write(example, folder / "raw", train=2000, test=200, seed=0)
        whole = next(file for file in sorted((folder / "raw/train").iterdir()) if file.suffix != ".txt")
        (folder / f"raw/train/broken{whole.suffix}").write_bytes(whole.read_bytes()[:-1] + b"\xff")
        command(prepare, ["--config", str(configs / "prepare.yaml")])
        fit("stages.align.Align", example, STEPS[example][0])
        fit("stages.instruct.Instruct", example, STEPS[example][1])
        command(evaluate, ["--config", str(configs / "evaluate.yaml")])
    return example, folder, json.loads((folder / "evaluate/metrics.json").read_text())


@pytest.mark.slow
def test_preparing_drops_what_the_modality_refuses_and_says_why(finished):
    _, folder, _ = finished
    manifest = json.loads((folder / "shards/train/manifest.json").read_text())
    assert manifest["samples"] == 2000
    [(reason, count)] = manifest["dropped"].items()
    assert re.match("point cloud|imu|history", reason) and count == 1
    assert manifest["dropped_names"] == {reason: ["broken"]}


@pytest.mark.slow
def test_held_out_samples_find_what_belongs_to_them_far_above_chance(finished):
    example, folder, metrics = finished
    if example == "user_history":
        scores = metrics["retrieval"]["user_history_to_item"]
        popular = popularity_recall(folder / "raw", count=10)
        assert scores["recall_at_10"] > 3 * max(popular, 10 * scores["chance"])
    else:
        assert metrics["retrieval"][f"{example}_to_text"]["recall_at_1"] > 0.6
        assert metrics["retrieval"][f"text_to_{example}"]["recall_at_1"] > 0.5
    assert all(scores["chance"] < 0.1 for scores in metrics["retrieval"].values())


def popularity_recall(raw: Path, count: int) -> float:
    """Return how often what readers of the test set take next is among the books that most took next in training."""
    taken = {
        split: [file.read_text() for file in (raw / split).glob("*.item")] for split in ("train", "test")
    }
    candidates = set(taken["test"])
    ranked = [item for item, _ in Counter(taken["train"]).most_common() if item in candidates]
    return sum(item in ranked[:count] for item in taken["test"]) / len(taken["test"])


@pytest.mark.slow
def test_the_assistant_answers_far_better_than_by_chance_and_not_without_its_medium(finished):
    _, _, metrics = finished
    scores = metrics["instruct"]
    assert scores["exact_match"] > 0.65
    assert max(scores["chance"], scores["blank_media"]) < 0.45


@pytest.mark.slow
def test_the_report_shows_members_of_any_kind_as_text_or_by_their_size(finished):
    example, folder, _ = finished
    page = (folder / "evaluate/report.html").read_text(encoding="utf-8")
    expected = {
        "point_cloud": r"\.bin, [\d,]+ bytes",
        "imu": "t,ax,ay,az,gx,gy,gz",
        "user_history": r"\d+( \d+){4}",
    }
    assert re.search(f'class="words">{expected[example]}', page)
    assert "\ufffd" not in page


@pytest.mark.slow
def test_the_aligned_encoders_are_exported_as_any_others(finished, tmp_path):
    from stages.compress import compress

    example, folder, _ = finished
    shards = [folder / "shards" / split for split in ("train", "test")]
    with pytest.raises(ValueError, match="list its package in `allow`"):
        compress(folder / "align/parts", *shards, tmp_path)
    compress(folder / "align/parts", *shards, tmp_path, repeats=1, allow=["examples"])  # compares with torch
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert example in metrics["per_modality"]
    assert metrics["total"]["recall_at_1_lost"] < 0.1


@pytest.mark.slow
def test_the_server_embeds_and_asks_about_an_uploaded_file(finished):
    from modules.assistant import Assistant
    from modules.embedder import Embedder
    from stages.serve.service import Medium, Service

    example, folder, _ = finished
    service = Service(
        Embedder.load(folder / "align/parts", allow=["examples"]),
        assistant=Assistant.load(folder / "instruct/parts", allow=["examples"]),
    )
    [record] = json.loads((folder / "raw/test.json").read_text())[:1]
    file = folder / "raw" / record[example]
    medium = Medium(example, file.read_bytes(), file.name)
    assert service.embed([medium])[example].shape == (1, 64)
    answers = {
        turn["value"]
        for one in json.loads((folder / "raw/test.json").read_text())
        for turn in one["conversations"]
    }
    assert service.ask(record["task"], [medium]) in answers


def test_nothing_of_the_project_knows_the_examples():
    rooms = [
        path
        for room in ("stages", "datamodules", "modules", "callbacks")
        for path in (ROOT / room).rglob("*.py")
    ]
    names = r"examples\.(?:point_cloud|imu|user_history)|PointNet|ImuEncoder|HistoryEncoder"
    assert rooms and [path for path in rooms if re.search(names, path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("example", list(EXAMPLES))
def test_a_modality_and_its_encoder_take_at_most_sixty_lines_of_one_file(example):
    code = (ROOT / "examples" / f"{example}.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in code if line.strip()]) <= 60


def test_the_same_seed_writes_the_same_data(tmp_path):
    for example in EXAMPLES:
        for number in range(2):
            write(example, tmp_path / f"{number}/{example}", train=4, test=2, seed=3)
    first, second = (
        {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "0", tmp_path / "1")
    )
    assert first == second and len(first) > 30

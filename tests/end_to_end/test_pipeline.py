"""The whole chain: every command of the demo leaves what the next one needs, and the last figures are whole."""

import json
import re
from itertools import chain, permutations

import pytest

from stages.demo import pipeline
from stages.demo.outcome import check, collect, table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of libraries, about runs this small
]
STEPS = {step.name: step for step in chain(*pipeline.STEPS)}
SECONDS = {**dict.fromkeys(STEPS, 7.0), "all": 70.0}


@pytest.fixture
def outcome(demo, monkeypatch) -> dict:
    """What the demo would write as its metrics.json."""
    monkeypatch.chdir(demo)
    return collect(pipeline.metrics_files(), SECONDS)


def test_every_training_leaves_its_config_and_parts_that_load(demo):
    from modules import parts

    expected = {
        "pretrain-image": {"encoders.image"},
        "pretrain-audio": {"encoders.audio"},
        "pretrain-text": {"encoders.text"},
        "pretrain-lm": {"encoders.text"},
        "align": {
            f"{kind}.{name}" for kind in ("encoders", "projections") for name in ("image", "audio", "text")
        },
        "instruct": {"language_model"}
        | {f"{kind}.{name}" for kind in ("encoders", "projectors") for name in ("image", "audio")},
    }
    for name, names in expected.items():
        run_dir = demo / "runs/demo" / name
        assert (run_dir / "config.yaml").is_file()
        assert {path.name for path in (run_dir / "parts").iterdir()} == names
        for part in names:
            assert parts.load(str(run_dir / "parts" / part)).init_args()


def test_the_metrics_have_every_figure_of_the_demo(outcome):
    directions = {f"{a}_to_{b}" for a, b in permutations(("image", "audio", "text"), 2)}
    assert set(outcome["retrieval"]) == directions
    for scores in outcome["retrieval"].values():
        assert scores.keys() >= {"recall_at_1", "recall_at_5", "candidates", "chance"}
        assert scores["candidates"] == 20
        assert 0 <= scores["recall_at_1"] <= scores["recall_at_5"] <= 1
        assert scores["chance"] == pytest.approx(1 / 20)
    assert set(outcome["zero_shot"]) == {"handwriting", "voices"}
    assert outcome["instruct"].keys() >= {"exact_match", "blank_media", "per_task", "baselines", "chance"}
    assert all("chance" in scores for scores in outcome["instruct"]["per_task"].values())
    assert outcome["descriptions"].keys() >= {"bleu"}
    assert any(name.startswith("rouge") for name in outcome["descriptions"])
    assert outcome["alignment_ms"].keys() >= {"median", "p95", "before"}
    assert set(outcome["compress"]["recall_at_1"]) == directions
    assert outcome["seconds"].keys() == {*STEPS, "all"}
    assert outcome["peak_memory_bytes"] > 1 << 20
    assert outcome["versions"]
    assert outcome["seed"] == 0
    json.dumps(outcome, allow_nan=False)


def test_the_subtitles_of_the_clips_are_where_the_speech_is(outcome):
    assert outcome["alignment_ms"]["median"] < 20 < outcome["alignment_ms"]["before"]


def test_the_onnx_files_agree_with_torch_and_int8_is_smaller(demo, outcome):
    for modality, scores in outcome["compress"]["per_modality"].items():
        assert scores["onnx_max_difference"] <= 1e-4
        for kind, name in (("float32", "model.onnx"), ("int8", "model.int8.onnx")):
            file = demo / "runs/demo/compress" / modality / name
            assert file.stat().st_size == scores["size_bytes"][kind]
        assert scores["size_bytes"]["int8"] < scores["size_bytes"]["float32"]


def test_untrained_models_are_told_from_trained_ones(outcome):
    failed = list(check(outcome))
    assert any(line.startswith("R@1 image_to_text: ") and line.endswith("at least 0.4") for line in failed)
    assert any(line.startswith("zero-shot handwriting") for line in failed)
    assert any(line.startswith("instruct exact match") for line in failed)
    assert not any(line.startswith(("subtitle error", "ONNX against torch")) for line in failed)


def test_the_table_has_a_line_for_every_stage(outcome):
    lines = table(outcome).splitlines()
    stages = "data", "prepare", "pretrain image", "pretrain lm", "align", "instruct", "evaluate", "compress"
    for stage in stages:
        assert sum(line.startswith(stage) and " 7 " in line + " " for line in lines) == 1, stage


def test_the_report_opens_without_a_network(demo):
    page = (demo / "runs/demo/evaluate/report.html").read_text(encoding="utf-8")
    assert "<html" in page
    loads = re.findall(
        r"(?:src|href|data|poster)\s*=\s*[\"']?(https?:|//)|url\(\s*[\"']?(https?:|//)|@import", page
    )
    assert loads == []
    assert page.count("data:audio/") >= 1
    assert page.count("data:image/") >= 1


def test_the_same_commands_again_do_nothing(demo, run_step, monkeypatch, capsys):
    monkeypatch.chdir(demo)
    for name, said in (("prepare", "already prepared"), ("align", "is finished: nothing to do")):
        run_step(STEPS[name])
        assert said in capsys.readouterr().out

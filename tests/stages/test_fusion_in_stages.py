"""A fusion inside an objective: built for the encoders, handed over, gone on with, refused where it does not fit."""

import logging
from pathlib import Path

import pytest
import yaml

from modules import parts
from stages.cli import run

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
GATED = {"class_path": "modules.fusion.gated.GatedFusion", "init_args": {"dim": 8}}
LATENT = {"class_path": "modules.fusion.latent.LatentFusion", "init_args": {"dim": 4, "hidden": 8}}


@pytest.fixture(autouse=True)
def no_complaint_of_logging(monkeypatch):
    """Lightning's logger keeps the stderr that it was imported under, which pytest has closed since."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


def loaded(folder: Path, name: str) -> dict:
    return {"class_path": "modules.parts.load", "init_args": {"path": str(folder / name)}}


def matching(fusion: dict, **more: dict) -> dict:
    return {"class_path": "modules.objectives.matching.Matching", "init_args": {"fusion": fusion, **more}}


def together(**objectives: dict) -> dict:
    return {
        "class_path": "modules.objectives.weighted.Weighted",
        "init_args": {
            "objectives": {
                "contrast": {"class_path": "modules.objectives.contrastive.InfoNCE"},
                **objectives,
            }
        },
    }


@pytest.fixture
def fit(aligned_parts, scenes_shards, tmp_path):
    """Return a function from an objective to the parts folder of an alignment of one step by the command line."""

    def fit(objective: dict, name: str = "run", modalities: tuple[str, ...] = ("image", "text")) -> Path:
        config = {
            "run_dir": str(tmp_path / name),
            "model": {
                "encoders": {each: loaded(aligned_parts, f"encoders.{each}") for each in modalities},
                "dim": 8,
                "objective": objective,
            },
            "data": {"train": str(scenes_shards), "batch_size": 4, "num_workers": 0},
            "trainer": {"accelerator": "cpu", "max_steps": 1, "enable_progress_bar": False},
        }
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(config))
        run("stages.align.Align", ["fit", "--config", str(file)])
        return tmp_path / name / "parts"

    return fit


@pytest.fixture
def refusal(fit, tmp_path, capsys):
    """Return a function from an objective to the message that refuses it before the first step."""

    def refusal(objective: dict, **more) -> str:
        with pytest.raises(SystemExit) as refused:
            fit(objective, "refused", **more)
        assert refused.value.code == 2
        assert not (tmp_path / "refused" / "config.yaml").exists()
        return capsys.readouterr().err

    return refusal


def test_a_fusion_takes_its_widths_from_the_encoders_and_is_handed_over(fit, aligned_parts):
    folder = fit(matching(GATED))
    fusion, head = parts.load(str(folder / "fusion")), parts.load(str(folder / "matching_head"))
    assert fusion.widths == {"image": 32, "text": 32}
    assert head.dim == fusion.dim == 8


def test_another_run_goes_on_with_a_fusion_and_its_head(fit):
    first = fit(together(match=matching(GATED)), "first")
    second = fit(matching(loaded(first, "fusion"), head=loaded(first, "matching_head")), "second")
    before, after = (parts.load(str(folder / "fusion")).state_dict() for folder in (first, second))
    moved = max((after[name] - tensor).abs().max().item() for name, tensor in before.items())
    assert 0 < moved < 0.01  # by one step, from where it was


def test_widths_may_be_stated_and_then_must_be_those_of_the_encoders(fit, refusal):
    stated = {**GATED, "init_args": {"dim": 8, "widths": {"image": 32, "text": 32}}}
    assert parts.load(str(fit(matching(stated)) / "fusion")).widths == stated["init_args"]["widths"]
    stated["init_args"]["widths"]["text"] = 48
    message = refusal(together(match=matching(stated)))
    assert "GatedFusion was built for text 48 wide, whose encoder is 32 wide" in message
    assert "name the fusion's class without `widths`" in message


def test_a_fusion_of_other_modalities_is_refused_before_the_first_step(fit, refusal):
    folder = fit(matching(GATED))
    message = refusal(matching(loaded(folder, "fusion")), modalities=("audio", "image", "text"))
    assert "GatedFusion was built for no audio, whose encoder is 32 wide" in message


def test_a_fusion_of_more_modalities_than_the_model_has_serves(fit):
    folder = fit(matching(GATED), "three", modalities=("audio", "image", "text"))
    again = fit(matching(loaded(folder, "fusion")), "two")
    assert parts.load(str(again / "fusion")).modalities == ["audio", "image", "text"]


def test_what_is_no_fusion_or_no_head_of_it_is_refused_by_its_class(fit, refusal, aligned_parts):
    assert "a fusion was expected, found a Projection" in refusal(
        matching(loaded(aligned_parts, "projections.image"))
    )
    folder = fit(matching(GATED))
    assert "expected a MatchingHead" in refusal(matching(GATED, head=loaded(folder, "fusion")))
    wider = {**GATED, "init_args": {"dim": 12}}
    assert "takes 8 features, the fusion gives 12" in refusal(
        matching(wider, head=loaded(folder, "matching_head"))
    )


def test_a_latent_space_is_handed_over_as_a_fusion(fit, refusal):
    latent = {
        "class_path": "modules.objectives.latent_alignment.LatentAlignment",
        "init_args": {"latent": LATENT, "adversary": 0.1},
    }
    fusion = parts.load(str(fit(together(latent=latent)) / "fusion"))
    assert fusion.init_args() == {"widths": {"image": 32, "text": 32}, "dim": 4, "hidden": 8}
    latent["init_args"]["latent"] = GATED
    assert "expected a LatentFusion" in refusal(latent)


def test_two_parts_of_one_name_are_refused(refusal):
    message = refusal(together(one=matching(GATED), other=matching(GATED)))
    assert "two objectives both hand over the part fusion, matching_head" in message


def test_what_an_objective_says_of_widths_is_checked_before_the_first_step(refusal):
    temporal = {
        "class_path": "modules.objectives.temporal.TemporalAlignment",
        "init_args": {"widths": {"image": 16, "text": 32}, "dim": 4},
    }
    assert "image encoder's tokens are 32 wide, widths says 16: say 32" in refusal(together(time=temporal))
    completion = {
        "class_path": "modules.objectives.completion.Completion",
        "init_args": {"modalities": ["image", "text"], "dim": 4},
    }
    assert "completion in 4 dimensions, the shared space has 8" in refusal(together(complete=completion))
    completion["init_args"]["modalities"].append("audio")
    assert "completion of audio: the model has image, text" in refusal(together(complete=completion))

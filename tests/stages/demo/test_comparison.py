"""A comparison: what is changed in a config, what the tables say, and the whole command in small."""

import importlib
import inspect
import itertools
import json
import pkgutil
from pathlib import Path

import pytest
import yaml

import modules.fusion
import modules.objectives
from modules.fusion.fusion import Fusion
from modules.objectives.aligned import AlignmentObjective
from stages.demo import runs, tables
from stages.demo.comparison import compare
from stages.demo.variants import ALIGN, FUSIONS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with one config of a stage below configs/, in which the test runs."""
    (tmp_path / "configs/align").mkdir(parents=True)
    content = {"run_dir": "x", "model": {"dim": 4, "encoders": {"image": 1}}, "data": {"train": "a"}}
    (tmp_path / "configs/align/infonce.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_change_takes_the_place_of_one_value_and_leaves_the_others(folder):
    changes = {"model.encoders": {"text": 2}, "data.seed": 3, "run_dir": "y"}
    assert runs.changed("align/infonce", changes) == {
        "run_dir": "y",
        "model": {"dim": 4, "encoders": {"text": 2}},
        "data": {"train": "a", "seed": 3},
    }


def test_a_change_below_a_key_that_is_not_there_is_an_error(folder):
    with pytest.raises(KeyError, match="objective"):
        runs.changed("align/infonce", {"model.objective.weights": {}})


def test_without_the_demos_data_nothing_is_started(folder):
    with pytest.raises(FileNotFoundError, match="run `make demo` first"):
        compare(out=folder / "out")
    assert not (folder / "out").exists()


def class_paths(content) -> set[str]:
    """Return the classes that a config names, at any depth."""
    if isinstance(content, dict):
        return set().union({content.get("class_path")}, *map(class_paths, content.values())) - {None}
    return set().union(*map(class_paths, content)) if isinstance(content, list | tuple) else set()


@pytest.mark.parametrize(
    ("variants", "package", "kind"),
    [(ALIGN, modules.objectives, AlignmentObjective), (FUSIONS, modules.fusion, Fusion)],
)
def test_every_objective_of_align_and_every_fusion_is_compared(variants, package, kind, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[3])
    compared = set()
    for variant in variants:
        changes = {key: value for key, value in variant.changes.items() if key.startswith("model.")}
        compared |= class_paths(runs.changed(variant.config, changes)["model"])
    there = set()
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        for name, each in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
            if each.__module__ == info.name and issubclass(each, kind) and not inspect.isabstract(each):
                there.add(f"{info.name}.{name}")
    assert there and there <= compared


def test_fusion_by_quality_is_compared_with_the_very_fusion_inside():
    variants = {variant.name: variant.changes for variant in FUSIONS}
    inside = variants["QualityFusion"]["model.fusion"]["init_args"]["fusion"]
    assert inside == variants["PerceiverFusion"]["model.fusion"]


def test_variants_have_names_and_folders_of_their_own():
    for variants in (ALIGN, FUSIONS):
        assert len({variant.name for variant in variants}) == len(variants)
        assert len({variant.slug for variant in variants}) == len(variants)


def write(folder, run, **metrics):
    (folder / run).mkdir(parents=True)
    (folder / run / "metrics.json").write_text(json.dumps(metrics))


def recalls(value):
    directions = itertools.permutations(("audio", "image", "text"), 2)
    return {f"{one}_to_{two}": {"recall_at_1": value} for one, two in directions}


def test_tables_hold_mean_spread_and_the_difference_seed_by_seed(tmp_path):
    joint = {
        "text": {
            "recall_at_1": 0.8,
            "without": {"audio": 0.4, "image": 0.8},
            "kept": {"audio": 0.5, "image": 1.0},
        }
    }
    folders = [tmp_path / "0", tmp_path / "1"]
    for number, folder in enumerate(folders):
        write(folder, "align-infonce-evaluated", retrieval=recalls(0.5), joint_retrieval={"mean": joint})
        write(
            folder,
            "align-siglip-evaluated",
            retrieval=recalls(0.6 + 0.2 * number),
            joint_retrieval={"mean": joint},
        )
    write(folders[0], "align-completion-evaluated", retrieval=recalls(1.0), joint_retrieval={"mean": joint})
    found = tables.collect(folders)
    text = tables.markdown(found)
    assert "| SigLIP |" in text and "| 0.700 ± 0.141 | +0.200 ± 0.141 |" in text
    assert "completion" not in text, "a variant that lacks a seed is left out"
    missing = found["one modality missing: objectives, image and audio encoders frozen"]
    assert missing["InfoNCE; asked by mean"][0] == {
        "text": 0.8,
        "text, no audio": 0.4,
        "text, no image": 0.8,
        "kept, mean": 0.75,
        "kept, least": 0.5,
    }

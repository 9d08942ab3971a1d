"""Every YAML under configs/ and examples/ says which command runs it, whose stage takes every key of it."""

import re
import runpy
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import jsonargparse
import pytest
import yaml

import stages.cli

COMMAND = stages.cli.command  # kept, since `parse` puts a stand-in in its place
ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("configs", "examples")
    for path in (ROOT / folder).rglob("*.yaml")
)


pytestmark = pytest.mark.filterwarnings(
    "ignore:.*found in sys.modules after import"
)  # of runpy, harmless here


@pytest.fixture(autouse=True)
def at_a_prompt_in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["stages"])


def opening_comment(config: str) -> str:
    """Return the comment lines that a YAML opens with, without their `#`."""
    lines = Path(config).read_text(encoding="utf-8").splitlines()
    ends = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:ends])


def command_of(config: str) -> tuple[str, list[str]]:
    """Return the stage's module and the arguments of the command in the opening comment that runs this file."""
    comment = opening_comment(config).replace("\\\n", " ")
    for line in re.findall(r"^\s*(?:srun )?(python -m stages\..*)$", comment, re.MULTILINE):
        _, _, stage, *arguments = shlex.split(line, comments=True)
        if config in arguments:
            return stage, arguments
    raise AssertionError(
        f"{config} has no line `python -m stages.… --config {config}` in its opening comment"
    )


def parse(stage: str, arguments: list[str]) -> jsonargparse.Namespace:
    """Parse a stage's command line through the file that `python -m` runs, without building or running anything."""
    parsed: list[jsonargparse.Namespace] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages.cli, "run", lambda path: parsed.append(stages.cli.parse(path, arguments)))
        patch.setattr(
            stages.cli, "command", lambda stage, **_: parsed.append(parse_function(stage, arguments))
        )
        runpy.run_module(stage, run_name="__main__")
    return parsed[0]


def parse_function(component: Callable | dict[str, Callable], arguments: list[str]) -> jsonargparse.Namespace:
    """Parse the command line of a stage that is a typed function."""
    return jsonargparse.capture_parser(lambda: COMMAND(component, args=[])).parse_args(arguments)


def leaves(value: object, path: str = "") -> Iterator[str]:
    """Yield the dotted path of every value in nested mappings."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path


@pytest.mark.parametrize("config", CONFIGS)
def test_the_command_a_config_opens_with_parses_against_its_stage(config):
    assert parse(*command_of(config)) is not None


@pytest.mark.parametrize("config", CONFIGS)
def test_no_value_stands_in_two_configs_of_one_command(config):
    _, arguments = command_of(config)
    files = [following for word, following in pairwise(arguments) if word == "--config"]
    counts = Counter(leaf for file in files for leaf in leaves(yaml.safe_load(Path(file).read_text())))
    assert config in files
    assert [leaf for leaf, count in counts.items() if count > 1] == []


def test_every_stage_of_the_pipeline_has_a_config():
    assert {config.split("/")[1] for config in CONFIGS} >= {
        "prepare",
        "pretrain",
        "align",
        "transfer",
        "instruct",
    }


@pytest.mark.parametrize(
    "config", [next((c for c in CONFIGS if f"/{s}/" in c), s) for s in ("prepare", "align")]
)
def test_an_unknown_key_in_a_config_is_refused_by_name(config, tmp_path, capsys):
    stage, arguments = command_of(config)
    (tmp_path / "more.yaml").write_text(Path(config).read_text() + "\nnot_a_key: 1\n")
    with pytest.raises(SystemExit) as refused:
        parse(stage, [str(tmp_path / "more.yaml") if word == config else word for word in arguments])
    assert refused.value.code == 2
    assert "not_a_key" in capsys.readouterr().err


def test_a_config_that_opens_with_no_command_is_named(tmp_path):
    (tmp_path / "silent.yaml").write_text("# Nothing to run.\nrun_dir: runs/x\n")
    with pytest.raises(AssertionError, match=r"silent\.yaml has no line"):
        command_of(str(tmp_path / "silent.yaml"))


@pytest.mark.parametrize(
    "config", [f"configs/{stage}/web_pairs.yaml" for stage in ("pretrain", "align", "instruct")]
)
def test_the_presets_for_large_models_are_in_the_ranges_that_plan_does_not_warn_of(config):
    settings = parse(*command_of(config)).fit
    assert 256 <= settings.data.batch_size <= 2048
    assert 1e-5 <= settings.model.optim.lr <= 1e-4
    assert 0.01 <= settings.model.optim.weight_decay <= 0.1
    assert 0.05 <= settings.model.optim.warmup_share <= 0.1

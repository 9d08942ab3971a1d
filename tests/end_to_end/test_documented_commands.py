"""Every `python -m stages.…` that README and docs show in a code block is one that its stage takes."""

import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path

import jsonargparse
import pytest

import stages.cli

ROOT = Path(__file__).parents[2]
COMMAND = stages.cli.command  # kept, since `parse` puts a stand-in in its place
BY_ITSELF = "add_a_modality.md"  # a test of its own runs what stands there
DOCUMENTS = [
    path
    for path in (
        *(ROOT / f for f in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
        *sorted((ROOT / "docs").glob("*.md")),
    )
    if path.is_file() and path.name != BY_ITSELF
]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*found in sys.modules after import"),  # of runpy
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter"),
]


def commands(text: str) -> list[str]:
    """Return the commands in a document's code blocks, without prompt, comment, pipe and environment."""
    blocks = re.findall(r"^ *```[a-z]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    before = r"^\s*(?:\$\s+)?(?:\w+=\S+\s+)*(?:srun\s+)?"
    shown = (re.match(before + r"(python -m stages\b[^|>&;]*)", line) for line in lines)
    return [found[1].strip() for found in shown if found and "…" not in found[1]]


def parse(command: str) -> object:
    """Parse a command through the file that `python -m` runs, and build and run nothing."""
    _, _, module, *arguments = shlex.split(command, comments=True)
    parsed = []

    def of_function(
        component: Callable | dict[str, Callable], args: list[str] | None = None, **shown
    ) -> None:
        given = arguments if args is None else args
        parser = jsonargparse.capture_parser(lambda: COMMAND(component, args=[], **shown))
        parsed.append(parser.parse_args(given))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [module, *arguments])
        patch.setattr(stages.cli, "run", lambda path: parsed.append(stages.cli.parse(path, arguments)))
        patch.setattr(stages.cli, "command", of_function)
        runpy.run_module(module, run_name="__main__")
    return parsed[0] if parsed else module


SHOWN = sorted({command for path in DOCUMENTS for command in commands(path.read_text(encoding="utf-8"))})


@pytest.mark.parametrize("command", SHOWN)
def test_a_command_that_a_document_shows_is_one_that_the_stage_takes(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert parse(command) is not None


def test_every_stage_is_shown_in_a_document():
    shown = {re.match(r"python -m stages\.(\w+)", command) for command in SHOWN}
    expected = {"prepare", "pretrain", "align", "transfer", "instruct", "evaluate", "compress", "serve"}
    assert {found[1] for found in shown if found} >= expected


def test_a_command_with_a_key_that_the_stage_does_not_know_is_found_out(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        parse("python -m stages.compress --config configs/compress/spoken_scenes.yaml --bits 4")


def test_commands_are_found_behind_prompts_and_over_two_lines():
    text = (
        "```sh\n$ SEED=1 python -m stages.align fit \\\n  --config a.yaml  # why\n```\n`python -m stages.no`"
    )
    assert [shlex.split(command, comments=True)[2:] for command in commands(text)] == [
        ["stages.align", "fit", "--config", "a.yaml"]
    ]

"""The demo's own commands and configs, run once from raw media to report on a fiftieth of its data."""

import itertools
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from stages.demo.pipeline import Step

ROOT = Path(__file__).parents[2]
TRAINING = ("--trainer.max_steps", "2", "--data.batch_size", "8", "--data.num_workers", "0")
TINY = {
    "data": ("--scale", "0.02", "--num_workers", "1"),
    "compress": ("--repeats", "1"),
    **dict.fromkeys(
        (
            "pretrain-image",
            "pretrain-audio",
            "pretrain-text",
            "pretrain-lm",
            "align",
            "instruct",
            "instruct-random",
        ),
        (*TRAINING, "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
    ),
}
"""What is added to a command of the demo, by step, to make it small."""


@pytest.fixture(scope="session")
def run_step() -> Callable[["Step"], None]:
    """Do what a step's `python -m …` does, but small, and in this process, which has the heavy libraries already."""

    def run(step: "Step") -> None:
        module, *arguments = shlex.split(step.arguments)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", [module, *arguments, *TINY.get(step.name, ())])
            runpy.run_module(module, run_name="__main__", alter_sys=True)

    return run


@pytest.fixture(scope="session")
def demo(run_step, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with configs/ and the runs/demo that the demo's commands leave, each checked for its `done` file."""
    from stages.demo.pipeline import ROOT as RUNS
    from stages.demo.pipeline import STEPS

    folder = tmp_path_factory.mktemp("demo")
    (folder / "configs").symlink_to(ROOT / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for step in itertools.chain(*STEPS):
            run_step(step)
            assert (RUNS / step.done).is_file(), f"{step.name} did not leave {RUNS / step.done}"
    return folder

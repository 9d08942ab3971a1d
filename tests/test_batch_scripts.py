"""The batch scripts: that bash reads them, that what they name exists, and when they requeue."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "configs/slurm").glob("*.sbatch"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_opens_with_what_it_is_for_and_how_it_is_submitted(script):
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert text.split("\n")[0] == "#!/usr/bin/env bash"
    assert f"#   sbatch configs/slurm/{script.name}\n" in text
    assert "#SBATCH --requeue\n" in text
    for named in re.findall(r"configs/[\w/]+\.(?:yaml|sh)", text):
        assert (ROOT / named).is_file()


def submitted(
    tmp_path: Path,
    code: int,
    error: bool = False,
    state: str = "RUNNING",
    ends: str = "N/A",
    **variables: str,
) -> tuple[int, list[str]]:
    """Run a step that exits with a code, and return the script's exit code and what it asked of scontrol."""
    asked = tmp_path / "asked"
    (tmp_path / "scontrol").write_text(
        f'#!/bin/sh\n[ $1 = show ] && echo JobState={state} || echo "$@" >> {asked}\n'
    )
    (tmp_path / "scontrol").chmod(0o755)
    (tmp_path / "squeue").write_text(f"#!/bin/sh\necho {ends}\n")
    (tmp_path / "squeue").chmod(0o755)
    note = 'mkdir -p "$RUN_DIR/logs"; echo failed > "$TRIVIUM_ERROR_FILE"; ' if error else ""
    script = f"source {ROOT}/configs/slurm/requeue.sh; run_or_requeue bash -c '{note}exit {code}'"
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "123",
        "RUN_DIR": str(tmp_path / "run"),
        **variables,
    }
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, check=False)
    return done.returncode, asked.read_text().splitlines() if asked.exists() else []


@pytest.mark.parametrize(
    ("code", "requeued"), [(0, False), (1, False), (2, False), (75, True), (137, True), (143, True)]
)
def test_a_job_is_requeued_when_it_was_stopped_or_killed(code, requeued, tmp_path):
    assert submitted(tmp_path, code) == (code, ["requeue 123"] if requeued else [])


def test_what_failed_by_an_error_of_its_own_is_not_requeued_though_others_were_killed(tmp_path):
    assert submitted(tmp_path, 137, error=True) == (137, [])


def test_a_job_is_requeued_so_many_times_and_no_more(tmp_path):
    assert submitted(tmp_path, 75, SLURM_RESTART_COUNT="50")[1] == []
    assert submitted(tmp_path, 75, SLURM_RESTART_COUNT="49")[1] == ["requeue 123"]


def test_a_task_of_an_array_requeues_itself_alone(tmp_path):
    array = {"SLURM_ARRAY_JOB_ID": "120", "SLURM_ARRAY_TASK_ID": "7"}
    assert submitted(tmp_path, 75, **array)[1] == ["requeue 120_7"]


@pytest.mark.parametrize(
    ("ends", "requeued"), [("N/A", False), ("2999-01-01T00:00:00", False), ("2020-01-01T00:00:00", True)]
)
def test_a_job_that_was_cancelled_stays_so_and_one_whose_time_was_up_goes_on(ends, requeued, tmp_path):
    asked = submitted(tmp_path, 75, state="COMPLETING", ends=ends)[1]
    assert asked == (["requeue 123"] if requeued else [])


@pytest.mark.parametrize(
    ("state", "ends", "requeued"),
    [
        ("COMPLETING", "2020-01-01T00:00:00", True),
        ("COMPLETING", "N/A", False),
        ("RUNNING", "2020-01-01T00:00:00", False),
    ],
)
def test_a_job_that_finished_when_its_time_was_up_starts_once_more(state, ends, requeued, tmp_path):
    asked = submitted(tmp_path, 0, state=state, ends=ends)[1]
    assert asked == (["requeue 123"] if requeued else [])

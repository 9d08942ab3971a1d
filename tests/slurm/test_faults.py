"""Faults on a real Slurm cluster: each run finishes with the samples, losses and weights of an undisturbed one.

With FAULT_TABLE=file each leaves a line there: fault, starts, steps made again, seconds from the fault to the end.
"""

import json
import os
import random
import signal
import time
from collections.abc import Callable

import pytest
from tiny_run import BATCH, ROOT, STEPS, Run

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
RANK = r"python\S* -m tiny fit"


@pytest.fixture
def run(healthy, base, shards, request, undisturbed) -> Run:
    return Run(healthy, base / request.node.name.replace("[", "-").strip("]"), shards)


def ranks(run: Run, node: str) -> list[int]:
    """Return the training process on a node, without its data workers."""
    pids = run.cluster.processes(node, RANK)
    parents = {pid: _parent(pid) for pid in pids}
    return [pid for pid in pids if parents[pid] not in pids and not _is_srun(pid)]


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def _is_srun(pid: int) -> bool:
    with open(f"/proc/{pid}/cmdline") as file:
        return "srun" in file.read().split("\0")[0]


def ends_like_an_undisturbed_one(
    run: Run, job: str, undisturbed: Run, began: float, seconds: float = 150
) -> None:
    about = run.cluster.finish(job, seconds)
    assert about["JobState"] == "COMPLETED", f"{about['JobState']} {about['ExitCode']}: {run.output[-6000:]}"
    for rank in (0, 1):
        assert run.steps(rank) == undisturbed.steps(rank)
        for start in {line[0] for line in run.lines(rank)}:
            cursors = [line[1] for line in run.lines(rank) if line[0] == start]
            assert cursors == list(range(cursors[0], cursors[-1] + BATCH, BATCH)), "samples were left out"
    assert run.weights() == undisturbed.weights()
    assert not list((run.run_dir / "checkpoints").glob(".writing-*"))
    if table := os.environ.get("FAULT_TABLE"):
        name = os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split(" ")[0]
        line = [name, int(about["Restarts"]), len(run.lines()) - STEPS, round(time.monotonic() - began)]
        with open(table, "a") as file:
            file.write(json.dumps(line) + "\n")


def scancel(number: str) -> Callable[[Run, str], None]:
    return lambda run, job: run.cluster.run("scancel", f"--signal={number}", job)


def requeue(run: Run, job: str) -> None:
    run.cluster.run("scontrol", "requeue", job)


def preempt(run: Run, job: str) -> None:
    """A job of a partition that goes first."""
    run.cluster.submit(
        "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 2"
    )


def signal_while_a_rank_waits(run: Run, job: str) -> None:
    """One rank hangs, the other waits for it in a collective and gets the signal; the first gets it later."""
    first, second = ranks(run, "node1")[0], ranks(run, "node2")[0]
    os.kill(second, signal.SIGSTOP)
    time.sleep(1)
    os.kill(first, signal.SIGUSR1)
    time.sleep(1)
    os.kill(second, signal.SIGCONT)


def kill_one_rank(run: Run, job: str) -> None:
    os.kill(ranks(run, "node2")[0], signal.SIGKILL)


def kill_all_ranks(run: Run, job: str) -> None:
    for node in run.cluster.nodes:
        for pid in ranks(run, node):
            os.kill(pid, signal.SIGKILL)


def freeze_one_rank(run: Run, job: str) -> None:
    os.kill(ranks(run, "node2")[0], signal.SIGSTOP)


def has_left(run: Run, job: str) -> None:
    """Wait until Slurm has noticed: a node takes longer than that to start again."""
    run.cluster.wait(lambda: run.cluster.show(job)["JobState"] != "RUNNING", 120, "the job has left the node")


def freeze_a_node(run: Run, job: str) -> None:
    """It hangs until someone switches it off and on."""
    run.cluster.signal(signal.SIGSTOP, "node2")
    has_left(run, job)
    run.cluster.crash("node2")
    run.cluster.boot("node2")
    run.cluster.wait(run.cluster.is_ready, 60, "the node is back")


def crash(node: str) -> Callable[[Run, str], None]:
    def fault(run: Run, job: str) -> None:
        run.cluster.crash(node)
        has_left(run, job)
        run.cluster.boot(node)

    return fault


def kill_a_slurmd(run: Run, job: str) -> None:
    run.cluster.signal(signal.SIGKILL, "node2", "^slurmd -D")
    has_left(run, job)
    run.cluster.crash("node2")
    run.cluster.boot("node2")


def set_a_node_down(run: Run, job: str) -> None:
    run.cluster.run("scontrol", "update", "NodeName=node2", "State=DOWN", "Reason=test")
    time.sleep(2)
    run.cluster.run(
        "scontrol", "update", "NodeName=node2", "State=RESUME", check=False
    )  # it may be back by itself


FAULTS: dict[str, Callable[[Run, str], None]] = {
    "USR1": scancel("USR1"),
    "TERM": scancel("TERM"),
    "preempted": preempt,
    "signal-in-collective": signal_while_a_rank_waits,
    "requeue": requeue,
    "kill-one-rank": kill_one_rank,
    "kill-all-ranks": kill_all_ranks,
    "freeze-one-rank": freeze_one_rank,
    "freeze-a-node": freeze_a_node,
    "crash-a-node": crash("node2"),
    "crash-the-first-node": crash("node1"),
    "kill-a-slurmd": kill_a_slurmd,
    "node-set-down": set_a_node_down,
}
STEP_S = {"kill-a-slurmd": 1.0}  # Slurm takes a while to notice; till then the job goes on


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_training_changes_nothing(fault, healthy, base, shards, undisturbed):
    run = Run(healthy, base / fault, shards, model={"step_s": STEP_S.get(fault, 0.15)})
    job = run.submit()
    run.reach(random.Random(os.environ.get("FAULT_SEED", "") + fault).randrange(2, STEPS - 15))
    began = time.monotonic()
    FAULTS[fault](run, job)
    ends_like_an_undisturbed_one(run, job, undisturbed, began)
    assert int(run.cluster.show(job)["Restarts"]) >= 1


@pytest.mark.parametrize("number", ["USR1", "TERM"])
def test_a_signal_during_imports_changes_nothing(number, run, undisturbed):
    job = run.submit()
    run.cluster.wait(lambda: all(ranks(run, node) for node in run.cluster.nodes), 60, "both ranks have begun")
    time.sleep(random.Random(number).uniform(0.5, 3))
    began = time.monotonic()
    run.cluster.run("scancel", f"--signal={number}", job)
    ends_like_an_undisturbed_one(run, job, undisturbed, began)


@pytest.mark.parametrize("warned", [True, False])
def test_a_time_limit_changes_nothing(warned, healthy, base, shards, undisturbed):
    # Unwarned it must be longer than the limit, the half minute that Slurm may add, and the time that it gives to end.
    run = Run(healthy, base / f"time-{warned}", shards, model={"step_s": 3.0 if warned else 4.5})
    began = time.monotonic()
    job = run.submit("--time=2", "--signal=USR1@30" if warned else "--signal=USR1@0")
    ends_like_an_undisturbed_one(run, job, undisturbed, began, 400)
    assert int(run.cluster.show(job)["Restarts"]) >= 1


def test_a_step_that_finishes_when_its_time_is_up_is_not_a_timeout(healthy, tmp_path):
    """Jobs that wait for this one, as `afterok`, would wait for ever."""
    step = tmp_path / "step.sh"
    step.write_text('trap "exit 0" TERM\n[[ -n $SLURM_RESTART_COUNT ]] && exit 0\nsleep 600 & wait\n')
    script = tmp_path / "job.sh"
    script.write_text(
        f"#!/bin/bash\nsource {ROOT}/configs/slurm/requeue.sh\nrun_or_requeue srun bash {step}\n"
    )
    job = healthy.submit("--time=1", "--requeue", f"--output={tmp_path}/output.txt", str(script))
    about = healthy.finish(job, 180)
    assert about["JobState"] == "COMPLETED", (tmp_path / "output.txt").read_text()
    assert int(about["Restarts"]) == 1


def freezes_while_it_writes(run: Run) -> bool:
    """Wait for a checkpoint to be begun and stop the ranks; where it was whole by then, let them go on."""
    processes = [pid for node in run.cluster.nodes for pid in ranks(run, node)]
    is_writing = lambda: list((run.run_dir / "checkpoints").glob(".writing-step-*"))  # noqa: E731
    run.cluster.wait(is_writing, 60, "a checkpoint is begun", every_s=0.0)
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.2)  # until their threads have stopped
    if is_writing():
        return True
    for pid in processes:
        os.kill(pid, signal.SIGCONT)
    return False


def test_kill_in_the_middle_of_writing_a_checkpoint_changes_nothing(healthy, base, shards, undisturbed):
    run = Run(healthy, base / "writing", shards, model={"ballast_mb": 64})
    job = run.submit()
    run.reach(12)
    began = time.monotonic()
    while not freezes_while_it_writes(run):
        assert time.monotonic() - began < 60
    kill_all_ranks(run, job)
    ends_like_an_undisturbed_one(run, job, undisturbed, began)


def test_a_full_disk_changes_nothing(healthy, base, shards, undisturbed):
    run = Run(healthy, base / "small", shards, model={"ballast_mb": 8})
    job = run.submit()
    run.reach(8)
    began = time.monotonic()
    fill = base / "small" / "fill"
    try:
        with open(fill, "wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
    except OSError:
        pass
    run.cluster.wait(lambda: "was not saved" in run.output, 60, "a save has failed")
    kill_all_ranks(run, job)
    time.sleep(1)
    fill.unlink()
    ends_like_an_undisturbed_one(run, job, undisturbed, began)


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_another_number_of_nodes_trains_on_the_next_samples(first, then, healthy, base, shards):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load

    model = {"dropout": 0.0}  # it is drawn for each rank
    plain = Run(healthy, base / f"plain-{first}", shards, model={**model, "step_s": 0.0})
    assert healthy.finish(plain.submit(nodes=first), 120)["JobState"] == "COMPLETED", plain.output
    run = Run(healthy, base / f"nodes-{first}-{then}", shards, model=model)
    job = run.submit(nodes=first)
    run.reach(12)
    healthy.run("scancel", job)
    healthy.wait(lambda: not healthy.run("squeue", "-h"), 60, "the job is gone")
    began = len(run.lines(0))
    again = run.submit(nodes=then)
    assert healthy.finish(again, 150)["JobState"] == "COMPLETED", run.output

    def samples(of: Run, ranks: int, begin: int = 0) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for rank in range(ranks):
            for _, cursor, keys, _ in of.lines(rank)[begin if rank == 0 else 0 :]:
                found.setdefault(cursor, []).extend(keys)
        return {cursor: sorted(keys) for cursor, keys in found.items()}

    expected, after = samples(plain, first), samples(run, then, began)
    assert all(expected[cursor] == keys for cursor, keys in after.items())
    assert len(after) > STEPS - 20
    assert set(after) | {line[1] for line in run.lines(0)[:began]} == set(expected)
    ours, theirs = load(run.weights()), load(plain.weights())
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_cancelled_job_stays_cancelled_and_its_run_can_be_gone_on_with(run, undisturbed):
    job = run.submit()
    run.reach(7)
    run.cluster.run("scancel", job)
    run.cluster.wait(lambda: not run.cluster.run("squeue", "-h"), 60, "the job is gone")
    time.sleep(3)
    assert run.cluster.show(job)["JobState"] == "CANCELLED"
    assert run.cluster.finish(run.submit(), 150)["JobState"] == "COMPLETED", run.output
    assert run.weights() == undisturbed.weights()


def test_an_error_of_one_rank_ends_the_job_for_good_and_leaves_its_message(healthy, base, shards):
    run = Run(healthy, base / "error", shards, model={"fail_at": 7 * BATCH})
    job = run.submit()
    about = healthy.finish(job, 150)
    assert (about["JobState"], about["Restarts"]) == ("FAILED", "0"), run.output
    message = (run.run_dir / "logs" / f"error.{job}.0.txt").read_text()
    assert "an error of its own" in message
    assert "lost" not in message  # the other rank is no reason

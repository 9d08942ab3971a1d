"""A run that is killed at a random step and started again has the losses of an unbroken one, step by step."""

import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stages.cli import run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs
RECORDED = """
import json, os, signal
from pathlib import Path
from stages.align import Align


class Recorded(Align):
    def losses(self, batch):
        losses = super().losses(batch)
        total = sum(float(loss.detach()) for loss in losses.values())
        record = os.environ["RECORD"] + (f".{self.global_rank}" if self.global_rank else "")
        with open(record, "a") as file:
            file.write(json.dumps([batch.cursor, batch.keys, total]) + "\\n")
        count = len(Path(record).read_text().splitlines())
        # Of several ranks the last one dies; the others find out.
        if count == int(os.environ.get("KILL_AT", 0)) and self.global_rank == self.trainer.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return losses


if __name__ == "__main__":
    from stages.cli import run

    run("recorded.Recorded")
"""


@pytest.fixture(autouse=True)
def recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)  # Lightning's logger keeps a stderr that is closed
    (tmp_path / "recorded.py").write_text(RECORDED)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("recorded", None)


def config(aligned_parts, shards, run_dir, **data) -> Path:
    encoders = {
        name: {
            "class_path": "modules.parts.load",
            "init_args": {"path": str(aligned_parts / f"encoders.{name}")},
        }
        for name in ("audio", "image", "text")
    }
    content = {
        "run_dir": str(run_dir),
        "save_every_steps": 1,
        "model": {
            "encoders": encoders,
            "dim": 8,
            "objective": {"class_path": "modules.objectives.contrastive.InfoNCE"},
            "optim": {"lr": 1e-2},
        },
        "data": {"train": str(shards), "batch_size": 4, "num_workers": 0, **data},
        "trainer": {"accelerator": "cpu", "max_steps": 6, "enable_progress_bar": False},
    }
    path = Path(f"{run_dir}.yaml")
    path.write_text(yaml.safe_dump(content))
    return path


def steps(record: Path) -> dict[int, tuple]:
    """Return cursor -> keys and loss; a step that was made twice must have come out alike."""
    found: dict[int, tuple] = {}
    for line in record.read_text().splitlines():
        cursor, keys, loss = json.loads(line)
        assert found.setdefault(cursor, (keys, loss)) == (keys, loss)
    return found


def weights(run_dir: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in run_dir.glob("parts/*/weights.safetensors")}


@pytest.mark.slow
@pytest.mark.parametrize(("accumulate", "workers"), [(1, "0"), (1, "2"), (2, "1")])
def test_a_killed_run_goes_on_to_the_same_losses_and_weights(
    accumulate, workers, aligned_parts, scenes_shards, tmp_path, monkeypatch
):
    more = ["--trainer.accumulate_grad_batches", str(accumulate), "--data.num_workers", workers]
    if accumulate > 1:  # InfoNCE compares the samples of a batch, so that batches do not add up
        temporal = {"widths": {"image": 32, "audio": 32}, "dim": 8}
        more += ["--model.objective", "modules.objectives.temporal.TemporalAlignment"]
        more += [f"--model.objective.init_args={json.dumps(temporal)}"]
    unbroken = config(aligned_parts, scenes_shards, tmp_path / "unbroken")
    monkeypatch.setenv("RECORD", str(tmp_path / "unbroken.jsonl"))
    run("recorded.Recorded", ["fit", "--config", str(unbroken), *more])

    killed = config(aligned_parts, scenes_shards, tmp_path / "killed")
    monkeypatch.setenv("RECORD", str(tmp_path / "killed.jsonl"))
    # Of 4 samples among 11: the end of an epoch lies within a batch; with accumulation, also within a step.
    at = random.Random(f"{accumulate} {workers}").randrange(3, 6 * accumulate)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KILL_AT": str(at)}
    command = [sys.executable, str(tmp_path / "recorded.py"), "fit", "--config", str(killed), *more]
    assert subprocess.run(command, cwd=ROOT, env=environment, timeout=120).returncode == -9
    assert list((tmp_path / "killed" / "checkpoints").iterdir())
    run("recorded.Recorded", ["fit", "--config", str(killed), *more])

    assert steps(tmp_path / "killed.jsonl") == steps(tmp_path / "unbroken.jsonl")
    assert len(steps(tmp_path / "killed.jsonl")) == 6 * accumulate
    assert weights(tmp_path / "killed") == weights(tmp_path / "unbroken")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [("2", "1"), ("1", "2")])
def test_a_killed_run_goes_on_with_another_number_of_ranks_at_the_next_sample(
    first, then, aligned_parts, scenes_shards, tmp_path, monkeypatch
):
    unbroken = config(aligned_parts, scenes_shards, tmp_path / "unbroken")
    monkeypatch.setenv("RECORD", str(tmp_path / "unbroken.jsonl"))
    run("recorded.Recorded", ["fit", "--config", str(unbroken)])

    killed = config(aligned_parts, scenes_shards, tmp_path / "killed")
    command = [sys.executable, str(tmp_path / "recorded.py"), "fit", "--config", str(killed)]
    for part, (ranks, kill_at) in enumerate([(first, "4"), (then, "0")]):
        strategy = ["--trainer.strategy", "ddp"] if ranks == "2" else []
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "KILL_AT": kill_at}
        environment["RECORD"] = str(tmp_path / f"part{part}.jsonl")
        asked = [*command, "--trainer.devices", ranks, *strategy]
        done = subprocess.run(asked, cwd=ROOT, env=environment, timeout=180, capture_output=True, text=True)
        assert (done.returncode == 0) == (kill_at == "0"), done.stderr[-2000:]

    seen: dict[int, list[str]] = {}
    for part in range(2):
        of_part: dict[int, list[str]] = {}
        for record in sorted(tmp_path.glob(f"part{part}.jsonl*")):
            for cursor, keys, _ in map(json.loads, record.read_text().splitlines()):
                of_part.setdefault(cursor, []).extend(keys)
        seen |= of_part  # the step at which the run was killed is made again
    expected = {cursor: sorted(keys) for cursor, (keys, _) in steps(tmp_path / "unbroken.jsonl").items()}
    assert {cursor: sorted(keys) for cursor, keys in seen.items()} == expected
    resumed = min(json.loads(line)[0] for line in (tmp_path / "part1.jsonl").read_text().splitlines())
    assert resumed > min(expected)  # it went on, it did not begin anew


def test_a_mixture_in_buckets_trains_and_is_kept_in_the_config(
    aligned_parts, scenes_shards, tmp_path, monkeypatch
):
    monkeypatch.setenv("RECORD", str(tmp_path / "record.jsonl"))
    train = {
        "all": {"paths": str(scenes_shards), "weight": 3},
        "some": {"paths": [f"{scenes_shards}/000001.tar"]},
    }
    path = config(aligned_parts, scenes_shards, tmp_path / "run", train=train, buckets={"by": "text"})
    run("recorded.Recorded", ["fit", "--config", str(path)])
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["data"]
    assert kept["train"]["all"] == {"paths": str(scenes_shards), "weight": 3.0}
    assert kept["buckets"] == {"by": "text", "num_batches": 32}
    assert weights(tmp_path / "run")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": {"a": {"paths": "x", "weight": 0}}}, "expected more than 0"),
        ({"train": {"a": {"path": "x"}}}, "path"),
        ({"buckets": {"by": "smell"}}, "data.buckets.by is 'smell', the modalities are audio, image, text"),
        ({"buckets": {"by": "text", "num_batches": 0}}, "expected at least 1 each"),
        ({"shuffle_shards": 0}, "data.shuffle_shards is 0"),
        ({"train": "pipe:cat a.tar"}, "is not a plain URL"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_first_step(
    data, message, aligned_parts, scenes_shards, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("RECORD", str(tmp_path / "record.jsonl"))
    path = config(aligned_parts, scenes_shards, tmp_path / "run", **data)
    with pytest.raises(SystemExit) as stopped:
        run("recorded.Recorded", ["fit", "--config", str(path)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "record.jsonl").exists()

"""`prepare` killed for good at any moment, out of room, and run twice at once: what a user's machine does to it."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from datamodules.shards.reader import ShardReader

ROOT = Path(__file__).parents[2]
NUM_KILLS = 20
SLOW = '''
import time
from dataclasses import dataclass
from datamodules.preparation.cleaning.filter import Filter

@dataclass
class Slow(Filter):
    """Takes its time, so that a kill finds work under way."""

    def examine(self, sample):
        time.sleep(0.002)
'''


@pytest.fixture
def config(tmp_path):
    """A set of 13 shards, with duplicates and empty lines."""
    (tmp_path / "slow.py").write_text(SLOW)
    lines = [f"line {n % 331}" if n % 10 else "" for n in range(400)]
    (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
    cleaning = "datamodules.preparation.cleaning"
    filters = [f"{cleaning}.texts.EmptyText", f"{cleaning}.duplicates.ExactDuplicates", "slow.Slow"]
    source = {
        "class_path": "datamodules.sources.text_lines.TextLines",
        "init_args": {"path": str(tmp_path / "text.txt")},
    }
    recipe = {"source": source, "filters": [{"class_path": name} for name in filters], "max_samples": 25}
    path = tmp_path / "prepare.yaml"
    path.write_text(yaml.safe_dump({"sets": {"lines": recipe}}))
    return path


def start(config, out, *args, **options):
    command = [sys.executable, "-m", "stages.prepare", "--config", str(config), "--out", str(out), *args]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(config.parent)])}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def content(folder):
    """Return all that a folder holds; the indices, which know the time of the tar beside them, as what they tell."""
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".index"}
    reader = ShardReader(folder)
    return files, [(reader.key(n), reader.sample(n)) for n in range(len(reader))], len(list(folder.iterdir()))


@pytest.mark.slow
def test_killed_at_random_moments_it_finishes_with_the_bytes_of_an_undisturbed_run(config, tmp_path):
    began = time.monotonic()
    assert start(config, tmp_path / "undisturbed").wait() == 0
    seconds = time.monotonic() - began
    expected = content(tmp_path / "undisturbed/lines")
    assert len(ShardReader(tmp_path / "undisturbed/lines").tars) == 13

    chance, num_kills, num_resumed, num_trials = random.Random(0), 0, 0, 0
    while num_kills < NUM_KILLS:
        out = tmp_path / f"out-{num_trials}"
        num_trials += 1
        for _ in range(3):
            process = start(config, out)
            time.sleep(chance.uniform(0.2, 1.0) * seconds)
            num_kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.communicate()
            num_resumed += any(out.glob(".lines.unfinished/*.tar"))
        last = start(config, out)
        _, errors = last.communicate()
        assert last.returncode == 0, errors
        assert content(out / "lines") == expected, f"trial {num_trials}"
        assert sorted(path.name for path in out.iterdir()) == ["lines", "report.html"]
    assert num_resumed >= NUM_KILLS // 4, "hardly a kill found a whole shard: the kills come too early"


@pytest.mark.slow
def test_a_file_that_the_system_refuses_is_told_and_the_next_run_goes_on(config, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(text.read_text() + "".join(f"{n} " + "x" * 3000 + "\n" for n in range(25)))
    limit = 60_000  # bytes of a file: enough for a shard of short lines, not for the last

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = start(config, tmp_path / "out", preexec_fn=limited)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "no room for" in errors and "File too large" in errors and "run the same command again" in errors
    unfinished = tmp_path / "out" / ".lines.unfinished"
    whole = {tar.name: tar.stat().st_mtime_ns for tar in unfinished.glob("*.tar")}
    assert len(whole) >= 11
    assert start(config, tmp_path / "out").wait() == 0
    folder = tmp_path / "out" / "lines"
    assert whole.items() <= {tar.name: tar.stat().st_mtime_ns for tar in folder.glob("*.tar")}.items()


@pytest.mark.slow
def test_a_second_run_into_the_same_folder_is_refused_while_the_first_goes_on(config, tmp_path):
    first = start(config, tmp_path / "out")
    while not (tmp_path / "out/.lines.unfinished/.lock").exists():
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # or it may be done before the second has begun
    second = start(config, tmp_path / "out")
    _, errors = second.communicate()
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2 and "is being written by process" in errors
    assert first.wait() == 0
    assert (tmp_path / "out/lines/manifest.json").is_file()


@pytest.mark.slow
def test_ray_writes_the_same_bytes(config, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'trivium[ray]'")
    processes = [start(config, tmp_path / "local"), start(config, tmp_path / "ray", "--engine", "ray")]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert content(tmp_path / "local/lines") == content(tmp_path / "ray/lines")

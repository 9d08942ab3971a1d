"""The benchmark of contrastive losses ends in one line of JSON, of figures that were measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_the_last_line_says_how_it_compares(loss):
    sizes = ["--batches", "1024", "2048", "--dim", "16", "--repeats", "1"]
    command = [sys.executable, "-m", "benchmarks.contrastive", "--loss", loss, *sizes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["batch"] == 2048 and figures["loss"] == loss
    assert 0 < figures["memory_over_open_clip"] < 1
    assert figures["time_over_open_clip"] > 0
    assert figures["relative_difference_of_the_loss"] < 1e-6
    assert list(figures["our_bytes_by_batch"]) == ["1024", "2048"]

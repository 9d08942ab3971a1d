"""The benchmark of align's step compares the same towers on the same data, and ends in one line of JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_last_line_says_how_it_compares():
    sizes = ["--size", "tiny", "--batch", "4", "--rounds", "1"]
    command = [sys.executable, "-m", "benchmarks.align_step", *sizes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    figures = json.loads(done.stdout.splitlines()[-1])
    for precision in ("fp32", "bf16"):
        for captions in ("", "_full"):
            assert figures[f"samples_per_s_over_open_clip_{precision}{captions}"] > 0
            assert figures[f"embedding_difference_{precision}{captions}"] < 1e-5
    assert figures["bf16_over_open_clip_fp32"] > 0

"""A run goes on under another strategy, on more ranks or fewer, as if it had never been spread otherwise."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modules import parts

pytestmark = pytest.mark.slow
CROSSINGS = [
    (("tp", 2), ("fsdp2", 2)),
    (("fsdp2", 2), ("one", 1)),
    (("one", 1), ("fsdp2", 2)),
    (("fsdp2", 2), ("fsdp2+tp", 4)),
    (("hybrid", 4), ("one", 1)),
    (("one", 1), ("fsdp1", 2)),
    (("fsdp1", 2), ("fsdp1", 2)),
    (("pipeline", 2), ("pipeline", 2)),
    (("pipeline", 2), ("one", 1)),
    (("fsdp2", 2), ("pipeline", 2)),
]
TOLERANCE = 1e-5  # the rates are 1e-3 and less


@pytest.fixture(scope="module")
def runs(folder: Path, on_ranks) -> dict[str, Path]:
    """Runs that were stopped behind step 4 of 6, by strategy, and `unbroken` on one process."""
    made = {}
    for strategy, ranks in {before for before, _ in CROSSINGS}:
        made[strategy] = folder / "runs" / strategy
        on_ranks("going_on.py", strategy, ranks, folder, made[strategy], 4)
    made["unbroken"] = folder / "runs" / "unbroken"
    on_ranks("going_on.py", "one", 1, folder, made["unbroken"], 6)
    return made


@pytest.mark.parametrize(("before", "after"), CROSSINGS, ids=[f"{b[0]}-then-{a[0]}" for b, a in CROSSINGS])
def test_weights_are_those_of_a_run_that_did_not_stop(before, after, runs, folder, tmp_path, on_ranks):
    shutil.copytree(runs[before[0]], tmp_path / "run", symlinks=True)
    on_ranks("going_on.py", *after, folder, tmp_path / "run", 6)
    for part in (runs["unbroken"] / "parts").iterdir():
        found, expected = (
            load_file(where / parts.WEIGHTS) for where in (tmp_path / "run" / "parts" / part.name, part)
        )
        apart = torch.stack([(found[name] - expected[name]).abs().max() for name in expected])
        assert apart.max() <= TOLERANCE, part.name


@pytest.mark.parametrize("strategy", ["tp", "fsdp2", "hybrid", "fsdp1"])
def test_a_part_of_its_shards_is_the_part_that_the_run_wrote(strategy, runs):
    for folder in (runs[strategy] / "parts").iterdir():
        written = parts.load(str(folder))
        of_shards = parts.load(f"{runs[strategy]}/checkpoints/step-00000004.ckpt#{folder.name}")
        assert of_shards.provenance.fingerprint == written.provenance.fingerprint

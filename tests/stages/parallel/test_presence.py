"""Whatever modalities the ranks have at a step, none waits for another and the gradient is that of one process."""

import itertools
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
MEMBERS = ("png", "flac", "txt")
SETS = [chosen for size in (0, 1, 2, 3) for chosen in itertools.combinations(MEMBERS, size)]
PAIRS = list(itertools.product(SETS, SETS))  # 7 × 7 of the two ranks, and 15 with a rank that has nothing
TOLERANCE = 1e-6
SECONDS = 120  # a hang is a failure


@pytest.fixture(scope="module")
def on_one(folder: Path, make_scene, on_ranks) -> Path:
    """The folder, with eight samples for each pair, four a rank, and the gradients that one process has of them."""
    from datamodules.shards.writer import write_shards

    scenes = [make_scene(number) for number in range(8)]
    samples = []
    for number, (pair, place) in enumerate(itertools.product(PAIRS, range(8))):
        members = {member: scenes[place][member] for member in pair[place // 4]}
        # A sample that cannot be decoded is left out, so that the rank has none at all.
        samples.append({"__key__": f"{number:06d}", **(members or {"png": b"no picture"})})
    write_shards(samples, folder / "presence", max_samples=len(samples))
    on_ranks("presence.py", "one", 1, folder, len(PAIRS), seconds=SECONDS)
    return folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_every_pair_of_sets_has_the_gradient_of_one_process(strategy, on_one, on_ranks):
    on_ranks("presence.py", strategy, 2, on_one, len(PAIRS), seconds=SECONDS)
    expected, found = (
        torch.load(on_one / f"presence-{name}.pt", weights_only=True) for name in ("one", strategy)
    )
    assert len(expected) == len(found) == len(PAIRS) == 64
    errors = {}
    for pair, one, both in zip(PAIRS, expected, found, strict=True):
        assert one.keys() == both.keys(), pair
        apart = torch.stack([(one[name] - both[name]).double().norm() for name in one]).norm()
        size = torch.stack([value.double().norm() for value in one.values()]).norm()
        errors[pair] = float(apart / size) if size else float(apart)
    worst = max(errors, key=errors.get)
    assert errors[worst] <= TOLERANCE, f"{worst}: {errors[worst]}"


def test_only_what_can_be_compared_has_a_gradient(on_one):
    steps = torch.load(on_one / "presence-one.pt", weights_only=True)
    sizes = [sum(float(value.abs().sum()) for value in step.values()) for step in steps]
    for (first, second), size in zip(PAIRS, sizes, strict=True):
        assert (size > 0) == (len(first) > 1 or len(second) > 1), (first, second)

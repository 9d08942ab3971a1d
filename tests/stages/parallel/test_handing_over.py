"""Parts are the same bytes from whatever strategy: whole tensors, the names and the class of the plain module."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modules import parts

pytestmark = pytest.mark.slow
SPREADS = [
    ("ddp", 2, ["clip", "adapted"]),
    ("fsdp2", 2, ["clip", "tied", "adapted"]),
    ("fsdp1", 2, ["clip", "tied", "adapted", "tokens"]),
    ("tp", 2, ["tokens"]),
    ("fsdp2+tp", 4, ["tokens"]),
    ("hybrid", 4, ["clip", "adapted"]),
    ("hybrid+tp", 8, ["tokens"]),
    ("pipeline", 2, ["tied", "tokens"]),
    ("ddp+pipeline", 4, ["tokens"]),
]


@pytest.fixture(scope="module")
def on_one(folder: Path, on_ranks) -> Path:
    """The parts that one process leaves, by case and number of steps."""
    on_ranks("handing_over.py", "one", 1, folder, "clip,tied,adapted,tokens")
    return folder / "left" / "one-1"


@pytest.mark.parametrize(("strategy", "ranks", "cases"), SPREADS, ids=[f"{s}-{r}" for s, r, _ in SPREADS])
def test_parts_are_those_of_one_process(strategy, ranks, cases, folder, on_one, on_ranks):
    on_ranks("handing_over.py", strategy, ranks, folder, ",".join(cases))
    left = folder / "left" / f"{strategy}-{ranks}"
    for case in cases:
        expected = sorted((on_one / f"{case}-0").iterdir())
        found = sorted((left / f"{case}-0").iterdir())
        assert [path.name for path in found] == [path.name for path in expected]
        for here, there in zip(found, expected, strict=True):
            assert {file.name: file.read_bytes() for file in here.iterdir()} == {
                file.name: file.read_bytes() for file in there.iterdir()
            }, here
            again = parts.load(str(left / f"{case}-3" / here.name))
            trained = load_file(on_one / f"{case}-3" / here.name / parts.WEIGHTS)
            apart = [(again.state_dict()[name] - tensor).abs().max() for name, tensor in trained.items()]
            assert torch.stack(apart).max() < 1e-4, here  # of three clipped steps of 1e-3 each


def test_three_steps_move_the_weights(on_one):
    still, moved = (load_file(on_one / f"clip-{n}" / "encoders.text" / parts.WEIGHTS) for n in (0, 3))
    assert any((still[name] - moved[name]).abs().max() > 1e-3 for name in still)

"""The gradient of a step is the same however it is made: on any number of ranks, sharded, split, or in pieces."""

from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
CASES = ["clip", "siglip", "matching", "masked", "tokens", "causal-tower"]
SPLIT = ["tokens", "causal-tower"]  # of whose models transformers has a plan
SPREADS = [
    ("ddp", 1, CASES),
    ("ddp", 2, CASES),
    ("ddp", 4, CASES),
    ("fsdp2", 2, CASES),
    ("fsdp2", 4, CASES),
    ("fsdp1", 2, CASES),
    ("tp", 2, SPLIT),
    ("tp", 4, SPLIT),
    ("fsdp2+tp", 4, SPLIT),
    ("hybrid", 4, CASES),
    ("hybrid+tp", 8, ["tokens"]),
    ("pipeline", 2, ["tokens", "causal-tower"]),
    ("pipeline-whole", 2, ["tokens"]),
    ("pipeline-uneven", 2, ["tokens"]),
    ("pipeline", 4, ["deep"]),
    ("ddp+pipeline", 4, ["deep"]),
]
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def on_one(folder: Path, on_ranks) -> Path:
    """The folder, with the gradients of one process."""
    on_ranks("gradients.py", "one", 1, folder, ",".join([*CASES, "deep"]))
    return folder


@pytest.mark.parametrize(("strategy", "ranks", "cases"), SPREADS, ids=[f"{s}-{r}" for s, r, _ in SPREADS])
def test_every_loss_has_the_gradient_of_one_process(strategy, ranks, cases, on_one, on_ranks):
    folder = on_one
    on_ranks("gradients.py", strategy, ranks, folder, ",".join(cases))
    errors = {}
    for case in cases:
        for pieces in ("1", "4", "1-clipped"):
            expected = gradients(folder, case, "one", 1, pieces if "clipped" in pieces else "1")
            found = gradients(folder, case, strategy, ranks, pieces)
            for name in found.keys() - expected.keys() if strategy == "fsdp1" else ():
                assert not found.pop(
                    name
                ).any()  # a part of a flat vector has a gradient because another has one
            assert expected.keys() == found.keys()
            errors[f"{case}-{pieces}"] = relative_error(found, expected)
    assert max(errors.values()) <= TOLERANCE, errors


@pytest.mark.parametrize("case", CASES)
def test_on_one_process_pieces_make_the_gradient_of_the_whole(case, on_one):
    whole, pieces = (gradients(on_one, case, "one", 1, pieces) for pieces in ("1", "4"))
    assert relative_error(pieces, whole) <= TOLERANCE


def gradients(folder: Path, case: str, strategy: str, ranks: int, pieces: str) -> dict[str, torch.Tensor]:
    found = torch.load(folder / f"{case}-{strategy}-{ranks}-{pieces}.pt", weights_only=True)
    assert any(gradient.abs().sum() > 0 for gradient in found.values())
    return found


def relative_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    apart = torch.stack([(found[name] - expected[name]).double().norm() for name in expected]).norm()
    return float(apart / torch.stack([value.double().norm() for value in expected.values()]).norm())

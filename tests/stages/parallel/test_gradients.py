"""The gradient of a step is the same however it is made: on any number of ranks, sharded, split, or in pieces."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
CASES = ["clip", "siglip", "matching", "masked", "tokens"]
SPLIT = ["tokens", "causal-tower"]  # of whose models transformers has a plan
SPREADS = [
    ("ddp", 1, CASES),
    ("ddp", 2, CASES),
    ("ddp", 4, CASES),
    ("fsdp2", 2, CASES),
    ("fsdp2", 4, CASES),
    ("tp", 2, SPLIT),
    ("tp", 4, SPLIT),
    ("fsdp2+tp", 4, SPLIT),
]
TOLERANCE = 1e-6
SECONDS = 300  # a hang is a failure


@pytest.fixture(scope="module")
def folder(make_scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of scenes, some of which lack a picture or a text, of instructions, and a tokenizer."""
    from datamodules.preparation.tokenizer import train_tokenizer
    from datamodules.shards.writer import write_shards

    folder = tmp_path_factory.mktemp("gradients")
    words = train_tokenizer(["a red seven left of a blue two, and so on what is it"], vocab_size=300)
    (folder / "tokenizer.json").write_text(words, encoding="utf-8")
    scenes = [make_scene(number) for number in range(32)]
    for number, sample in enumerate(scenes):
        if number % 7 == 3:
            del sample["png"]
        elif number % 7 == 5:
            del sample["txt"]
    write_shards(scenes, folder / "scenes", max_samples=32)
    instructions = [
        {
            **{name: value for name, value in make_scene(number).items() if name in ("__key__", "png")},
            "json": json.dumps(
                {
                    "conversations": [
                        {"from": "human", "value": "<image>\nwhat is it"},
                        {"from": "gpt", "value": "red" + " and so on" * (number % 5)},
                    ]
                }
            ).encode(),
        }
        for number in range(32)
    ]
    write_shards(instructions, folder / "instructions", max_samples=32)
    run(folder, "one", 1, [*CASES, "causal-tower"])
    return folder


def run(folder: Path, strategy: str, ranks: int, cases: list[str]) -> None:
    """Take the steps in real processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
        "OMP_NUM_THREADS": "1",
    }
    shared |= {"TORCHELASTIC_RUN_ID": "test", "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
    shared |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(Path(__file__).with_name("gradients.py")), str(folder), strategy]
    processes = [
        subprocess.Popen(
            [*command, str(ranks), ",".join(cases)],
            env={
                **os.environ,
                **(shared if strategy != "one" else {}),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        said = [process.communicate(timeout=SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), said[0][-3000:]


@pytest.mark.parametrize(("strategy", "ranks", "cases"), SPREADS, ids=[f"{s}-{r}" for s, r, _ in SPREADS])
def test_every_loss_has_the_gradient_of_one_process(strategy, ranks, cases, folder):
    run(folder, strategy, ranks, cases)
    errors = {}
    for case in cases:
        for pieces in ("1", "4", "1-clipped"):
            expected = gradients(folder, case, "one", 1, pieces if "clipped" in pieces else "1")
            found = gradients(folder, case, strategy, ranks, pieces)
            assert expected.keys() == found.keys()
            errors[f"{case}-{pieces}"] = relative_error(found, expected)
    assert max(errors.values()) <= TOLERANCE, errors


@pytest.mark.parametrize("case", [*CASES, "causal-tower"])
def test_on_one_process_pieces_make_the_gradient_of_the_whole(case, folder):
    whole, pieces = (gradients(folder, case, "one", 1, pieces) for pieces in ("1", "4"))
    assert relative_error(pieces, whole) <= TOLERANCE


def gradients(folder: Path, case: str, strategy: str, ranks: int, pieces: str) -> dict[str, torch.Tensor]:
    found = torch.load(folder / f"{case}-{strategy}-{ranks}-{pieces}.pt", weights_only=True)
    assert any(gradient.abs().sum() > 0 for gradient in found.values())
    return found


def relative_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    apart = torch.stack([(found[name] - expected[name]).double().norm() for name in expected]).norm()
    return float(apart / torch.stack([value.double().norm() for value in expected.values()]).norm())

"""Real processes that train together on CPUs, and small data for them."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SECONDS = 300  # a hang is a failure


@pytest.fixture(scope="session")
def on_ranks() -> Callable[..., None]:
    """A function that runs `program strategy ranks arguments...` of this folder on so many ranks, or as one process.

    It fails with what a rank said that failed, and when they are not through in time.
    """

    def run(program: str, strategy: str, ranks: int, *arguments: object, seconds: float = SECONDS) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(ranks),
            "TORCHELASTIC_RUN_ID": "test",
            "LOCAL_WORLD_SIZE": str(ranks),
            "GROUP_RANK": "0",
        }
        always = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__).with_name(program)), strategy, str(ranks)]
        processes = [
            subprocess.Popen(
                [*command, *map(str, arguments)],
                env={
                    **os.environ,
                    **always,
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
            said = [process.communicate(timeout=seconds)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
        failed = [text for process, text in zip(processes, said, strict=True) if process.returncode]
        assert not failed, failed[0][-3000:]

    return run


@pytest.fixture(scope="session")
def folder(make_scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of scenes, some of which lack a picture or a text, of instructions, and a tokenizer."""
    from datamodules.preparation.tokenizer import train_tokenizer
    from datamodules.shards.writer import write_shards

    folder = tmp_path_factory.mktemp("parallel")
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
    return folder

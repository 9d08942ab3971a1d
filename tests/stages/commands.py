"""What tests of the training stages share: a run in this process, and the message of one that is refused."""

import os
import signal
from pathlib import Path

import pytest
import yaml

from stages.cli import run


def fit(config: dict, *more: str, stage: str = "stages.align.Align") -> None:
    """Run `fit` in this process, as the command line does."""
    run(stage, ["fit", "--config", written(config), *more])


def written(config: dict) -> str:
    """Write a config beside its run directory."""
    path = Path(config["run_dir"] + ".yaml")
    path.write_text(yaml.safe_dump(config))
    return str(path)


def refusal(
    config: dict,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    stage: str = "stages.align.Align",
) -> str:
    """Return the message of a run that is refused before its first step."""
    with monkeypatch.context() as patch:
        patch.setattr(f"{stage}.losses", lambda *_: pytest.fail("a step was made"))
        with pytest.raises(SystemExit) as stopped:
            fit(config, stage=stage)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def stop_in_step(number: int, monkeypatch: pytest.MonkeyPatch) -> list:
    """Press Ctrl-C while the losses of a step, counted from 1, are made; return the list of batches as it grows."""
    from stages.align import Align

    losses, calls = Align.losses, []

    def interrupted(stage, batch):
        calls.append(batch)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return losses(stage, batch)

    monkeypatch.setattr(Align, "losses", interrupted)
    return calls


def weights(run_dir: str | Path) -> dict[str, bytes]:
    """Return the bytes of the weights of all parts that a run left."""
    found = {
        path.parent.name: path.read_bytes() for path in Path(run_dir, "parts").glob("*/weights.safetensors")
    }
    assert found
    return found


def part(path: str | Path) -> dict:
    """Return the config of a part in a folder or a checkpoint."""
    return {"class_path": "modules.parts.load", "init_args": {"path": str(path)}}

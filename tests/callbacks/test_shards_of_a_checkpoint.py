"""Shards from all ranks: whole or not there, checked by all ranks, the newest whole ones resumed."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from callbacks import checkpoint_file as files

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
from pathlib import Path
import torch
from conftest import Line, Numbers
from lightning.pytorch import Trainer
from torch.distributed.fsdp import fully_shard
from callbacks.checkpoints import Checkpoints
from callbacks.preemption import NoSignals
from callbacks.resuming import Resuming
from stages.strategies import Sharded

class Halves(Line):
    def __init__(self):
        super().__init__()
        self.idle = torch.nn.Linear(2, 2)  # no loss depends on it, so the optimiser keeps nothing of it

    def configure_model(self):
        for layer in (self.layer, self.idle):
            fully_shard(layer, mesh=self.device_mesh["data_parallel"])

    def on_train_batch_end(self, *_):
        self.weights[self.trainer.global_step] = self.layer.weight.full_tensor().tolist()

folder, steps = Path(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(0)
module, checkpoints = Halves(), Checkpoints(folder / "checkpoints", every_n_steps=2, keep=4)
trainer = Trainer(max_steps=steps, accelerator="cpu", devices=2, callbacks=[checkpoints], logger=False,
    strategy=Sharded(), plugins=[checkpoints.in_memory],
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    use_distributed_sampler=False)
trainer._signal_connector, trainer._checkpoint_connector = NoSignals(trainer), Resuming(trainer, checkpoints.folder)
trainer.fit(module, datamodule=Numbers())
if trainer.is_global_zero:
    (folder / f"weights.{steps}.json").write_text(json.dumps(module.weights))
"""


def fit(folder: Path, steps: int) -> dict[str, list]:
    """Fit with FSDP2 on two ranks and return the weights behind each step that was made."""
    program = folder / "sharded.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests/callbacks"}
    done = subprocess.run(
        [sys.executable, program, folder, str(steps)],
        env=environment,
        timeout=180,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / f"weights.{steps}.json").read_text())


def leave_out(folder: Path, prefix: str) -> None:
    """Let a directory and its checksums say that nothing was saved whose name begins so."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    for index in [index for index in metadata.storage_data if index.fqn.startswith(prefix)]:
        del metadata.storage_data[index]
        metadata.state_dict_metadata.pop(index.fqn, None)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    sums = files.checksums(folder)
    files.checksum_path(folder).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


@pytest.mark.slow
def test_shards_are_resumed_from_the_newest_that_are_whole(tmp_path):
    first = fit(tmp_path, 7)
    found = files.candidates(tmp_path / "checkpoints")
    assert [files.step_of(path) for path in found] == [7, 6, 4, 2]
    assert all(path.is_dir() for path in found)
    for path in found:
        files.check_sums(path)
    shard = sorted(found[0].glob("*.distcp"))[-1]
    shard.write_bytes(shard.read_bytes()[:-1])
    leave_out(found[1], "optimizer_0.state")
    leave_out(found[2], "optimizer_0")
    again = fit(tmp_path, 9)
    assert list(again) == ["3", "4", "5", "6", "7", "8", "9"]
    assert all(again[step] == first[step] for step in ("3", "7"))
    for step in (7, 6, 4):
        assert (tmp_path / "checkpoints" / f"step-0000000{step}.ckpt.broken").is_dir()

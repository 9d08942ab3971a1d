"""FiniteSteps: what is not finite changes no weight, is counted, and ends a run that has too much of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from callbacks import checkpoint_file as files
from callbacks.checkpoints import Checkpoints
from callbacks.finite import FiniteSteps, NotFinite

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on tiny runs


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(fused, fit, line, tmp_path):
    callback = FiniteSteps(5, tmp_path / "restored.txt")
    module = line(nan_at=(3, 5), fused=fused)
    trainer = fit(module, callback, steps=6)
    weights = module.weights
    for step in (3, 5):
        assert torch.equal(weights[step], weights[step - 1])
    for step in (2, 4, 6):
        assert not torch.equal(weights[step], weights[step - 1])
    assert callback.skipped == 2
    state = trainer.optimizers[0].state_dict()["state"]
    assert all(int(entry["step"]) == 4 for entry in state.values())  # skipped ones are none to Adam


def test_steps_that_are_finite_are_those_of_a_run_without_the_callback(fit, line, tmp_path):
    torch.manual_seed(1)
    module = line()
    fit(module, steps=4)
    torch.manual_seed(1)
    watched = line()
    fit(watched, FiniteSteps(0, tmp_path / "restored.txt"), steps=4, gradient_clip_val=1e9)
    assert all(torch.equal(module.weights[step], watched.weights[step]) for step in module.weights)


def test_a_gradient_that_is_not_finite_is_skipped_though_its_loss_is(fit, line, tmp_path):
    module = line()
    module.on_after_backward = lambda: module.layer.bias.grad.fill_(float("inf"))
    fit(module, FiniteSteps(9, tmp_path / "restored.txt"), steps=2, gradient_clip_val=1.0)
    assert torch.equal(module.weights[1], module.weights[2])


def test_one_bad_batch_of_several_that_share_a_step_skips_the_step(fit, line, tmp_path):
    callback = FiniteSteps(9, tmp_path / "restored.txt")
    module = line()
    step = module.training_step
    module.training_step = lambda batch, batch_idx: (
        step(batch, batch_idx) * (float("nan") if batch.cursor == 3 else 1.0)
    )
    fit(module, callback, steps=3, accumulate_grad_batches=2)
    assert callback.skipped == 1
    assert torch.equal(module.weights[2], module.weights[1])


@pytest.fixture
def normed(line):
    """A `Line` behind a batch norm, to which infinity comes at the positions that `inf_at` names, counted from 1.

    Where the loss `is_apart`, it does not depend on the norm.
    """

    class Normed(line):
        def __init__(self, inf_at, fused=False, is_apart=False):
            super().__init__(fused=fused)
            self.norm = torch.nn.BatchNorm1d(2)
            self.inf_at, self.is_apart = inf_at, is_apart
            self.states = {0: self.copied()}

        def copied(self):
            return {name: value.clone() for name, value in self.state_dict().items()}

        def training_step(self, batch, batch_idx):
            self.trainer.datamodule.cursor = batch.cursor
            x = torch.arange(8.0).view(4, 2) * batch.cursor
            x[1, 0] = float("inf") if batch.cursor in self.inf_at else x[1, 0]
            seen = self.norm(x)
            return self.layer(torch.ones(1, 2) if self.is_apart else seen).square().mean()

        def on_train_batch_end(self, *_):
            self.states.setdefault(
                self.trainer.global_step, self.copied()
            )  # behind the first batch of several

    return Normed


@pytest.mark.parametrize("fused", [False, True])
def test_a_batch_with_infinity_leaves_weights_and_statistics_as_they_were(fused, fit, normed, tmp_path):
    module = normed(inf_at=(3,), fused=fused)
    callback, checkpoints = (
        FiniteSteps(5, tmp_path / "restored.txt"),
        Checkpoints(tmp_path, every_n_steps=1, keep=9),
    )
    fit(module, callback, checkpoints, steps=4)
    assert callback.skipped == 1
    for name, value in module.states[3].items():
        assert torch.equal(value, module.states[2][name]), name
        assert not torch.equal(value, module.states[4][name]), name
    assert int(module.norm.num_batches_tracked) == 3
    saved = files.read(tmp_path / "step-00000003.ckpt")
    assert saved["not_finite"] == []
    assert torch.equal(saved["state_dict"]["norm.running_mean"], module.states[2]["norm.running_mean"])


def test_statistics_are_those_of_before_all_batches_of_a_skipped_step(fit, normed, tmp_path):
    module = normed(inf_at=(4,))
    fit(module, FiniteSteps(5, tmp_path / "restored.txt"), steps=3, accumulate_grad_batches=2)
    for name, value in module.states[2].items():
        assert torch.equal(value, module.states[1][name]), name
    assert int(module.norm.num_batches_tracked) == 4


def test_a_step_is_skipped_when_statistics_alone_are_not_finite(fit, normed, tmp_path):
    module, callback = normed(inf_at=(2,), is_apart=True), FiniteSteps(5, tmp_path / "restored.txt")
    fit(module, callback, steps=2)
    assert callback.skipped == 1
    for name, value in module.states[2].items():
        assert torch.equal(value, module.states[1][name]), name


def test_past_the_limit_the_run_is_restored_once_and_then_stops_with_the_samples(fit, line, tmp_path, capsys):
    restored = tmp_path / "logs" / "restored.txt"
    with pytest.raises(SystemExit) as stopped:
        fit(line(nan_at=(2, 3, 5)), FiniteSteps(2, restored), steps=9)
    assert stopped.value.code == 75
    assert "3 of the last 1000 steps" in capsys.readouterr().out
    assert "in step 5 of the samples key5" in restored.read_text()
    with pytest.raises(NotFinite, match="restored once already"):
        fit(line(nan_at=(2, 3, 5)), FiniteSteps(2, restored), steps=9)


def test_a_negative_limit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_skipped_steps is -1"):
        FiniteSteps(-1, tmp_path / "restored.txt")


TWO_RANKS = """
import sys
from pathlib import Path
import torch
from lightning.pytorch import Trainer
from conftest import Line, Numbers
from callbacks.finite import FiniteSteps

class Uneven(Line):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(2)

    def training_step(self, batch, batch_idx):
        x = torch.arange(8.0).view(4, 2)
        x = x * float("inf") if self.global_rank == 1 and self.trainer.global_step == 1 else x
        loss = super().training_step(batch, batch_idx) + self.norm(x).mean()
        return loss * float("nan") if self.global_rank == 1 and self.trainer.global_step == 1 else loss

callback, module = FiniteSteps(0, Path(sys.argv[1], "restored.txt")), Uneven()
trainer = Trainer(max_steps=4, accelerator="cpu", devices=2, strategy="ddp", callbacks=[callback], logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    use_distributed_sampler=False)
try:
    trainer.fit(module, datamodule=Numbers())
except SystemExit as stopped:
    Path(sys.argv[1], f"stopped.{trainer.global_rank}").write_text(str(stopped.code))
    torch.save(module.norm.state_dict(), Path(sys.argv[1], f"norm.{trainer.global_rank}"))
"""


@pytest.mark.slow
def test_all_ranks_skip_the_step_that_is_not_finite_on_one(tmp_path):
    program = tmp_path / "two_ranks.py"
    program.write_text(TWO_RANKS)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests/callbacks"}
    subprocess.run(
        [sys.executable, program, tmp_path], env=environment, check=True, timeout=120, capture_output=True
    )
    assert [(tmp_path / f"stopped.{rank}").read_text() for rank in (0, 1)] == ["75", "75"]
    assert "of the samples key2" in (tmp_path / "restored.txt").read_text()
    for rank in (0, 1):  # as the first step left them
        state = torch.load(tmp_path / f"norm.{rank}", weights_only=True)
        assert int(state["num_batches_tracked"]) == 1
        torch.testing.assert_close(state["running_mean"], torch.tensor([0.3, 0.4]))

"""FiniteSteps: what is not finite changes no weight, is counted, and ends a run that has too much of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
from lightning.pytorch import Trainer
from conftest import Line, Numbers
from callbacks.finite import FiniteSteps

class Uneven(Line):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if self.global_rank == 1 and self.trainer.global_step == 1 else loss

callback, module = FiniteSteps(0, Path(sys.argv[1], "restored.txt")), Uneven()
trainer = Trainer(max_steps=4, accelerator="cpu", devices=2, strategy="ddp", callbacks=[callback], logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    use_distributed_sampler=False)
try:
    trainer.fit(module, datamodule=Numbers())
except SystemExit as stopped:
    Path(sys.argv[1], f"stopped.{trainer.global_rank}").write_text(str(stopped.code))
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

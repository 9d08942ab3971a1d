"""is_logged_step: the logger gets what it got when every step was logged, and finding it costs nothing in between."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from callbacks.logged_steps import is_logged_step


class Counting(LightningModule):
    """Logs the number of its step; whether at each step, or only where it is asked for."""

    def __init__(self, lean: bool) -> None:
        super().__init__()
        self.weight, self.lean, self.logged = torch.nn.Parameter(torch.ones(())), lean, 0

    def training_step(self, batch, batch_index):
        if not self.lean or is_logged_step(self.trainer):
            self.log("train/step", float(self.trainer.global_step))
            self.logged += 1
        return self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def logged(folder, lean: bool) -> tuple[list[str], float, int]:
    module = Counting(lean)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=23,
        log_every_n_steps=5,
        logger=CSVLogger(folder, name=str(lean), version=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(100)))
    lines = (folder / str(lean) / "metrics.csv").read_text().splitlines()
    return lines, float(trainer.callback_metrics["train/step"]), module.logged


def test_the_logger_and_the_last_value_are_as_if_every_step_was_logged(tmp_path):
    every, last, times = logged(tmp_path, lean=False)
    lean_every, lean_last, lean_times = logged(tmp_path, lean=True)
    assert lean_every == every and len(every) == 1 + 4
    assert lean_last == last == 22.0
    assert (times, lean_times) == (23, 6)


@pytest.mark.parametrize(("every", "expected"), [(0, [1, 9]), (4, [1, 4, 8, 9]), (1, list(range(1, 10)))])
def test_the_first_and_the_last_step_are_always_logged(every, expected):
    steps = [SimpleNamespace(global_step=step, max_steps=9, log_every_n_steps=every) for step in range(9)]
    assert [trainer.global_step + 1 for trainer in steps if is_logged_step(trainer)] == expected

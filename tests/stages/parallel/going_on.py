"""One rank of a run that saves, or goes on from what another strategy saved: started by test_going_on."""

import sys
from pathlib import Path

import torch
from gradients import stage_of, trainer_of

from callbacks.checkpoints import Checkpoints
from callbacks.parts import WriteParts
from callbacks.preemption import NoSignals
from callbacks.resuming import Resuming
from datamodules.samples import SampleDataModule


def fit(folder: Path, run: Path, strategy: str, ranks: int, max_steps: int) -> None:
    """Train up to a step, from the newest checkpoint of the run where there is one; leave checkpoints and parts."""
    stage = stage_of("tokens", str(folder / "tokenizer.json"), chunks=1)
    stage.unused = torch.nn.Linear(4, 4)  # the optimiser keeps nothing of what no loss depends on
    stage.optim.factor = lambda step, max_steps: 1.0  # however far it goes
    stage.lr_factors = {"assistant.encoders.image": 0.5, "assistant.projectors": 0.25}
    data = SampleDataModule(
        str(folder / "instructions"),
        batch_size=8,
        num_workers=0,
        input_configs=stage.input_configs,
        require=stage.require,
    )
    checkpoints = Checkpoints(run / "checkpoints", every_n_steps=2, best=None)
    trainer = trainer_of(
        strategy,
        ranks,
        max_steps=max_steps,
        plugins=[checkpoints.in_memory],
        callbacks=[WriteParts(run / "parts"), checkpoints],
    )
    trainer._signal_connector = NoSignals(trainer)
    trainer._checkpoint_connector = Resuming(trainer, checkpoints.folder)
    trainer.fit(stage, data)


if __name__ == "__main__":
    torch.set_num_threads(1)
    strategy, ranks, folder, run = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    fit(folder, run, strategy, ranks, int(sys.argv[5]))

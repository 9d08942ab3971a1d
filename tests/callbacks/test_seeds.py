"""StepSeeds: a step draws the same whether or not the run was stopped before it, and other than its neighbours."""

import random
from types import SimpleNamespace

import numpy as np
import torch

from callbacks.seeds import StepSeeds


def draws(cursor: int, rank: int = 0, seed: int = 0) -> tuple[float, float, float]:
    callback, trainer = StepSeeds(seed), SimpleNamespace(distributed_sampler_kwargs={"rank": rank})
    stage = SimpleNamespace(device=torch.device("cpu"))
    callback.on_train_batch_start(trainer, stage, SimpleNamespace(cursor=cursor), 0)
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_step_draws_the_same_again_and_other_than_any_other():
    first = draws(8)
    torch.rand(100)
    assert draws(8) == first
    others = [draws(12), draws(8, rank=1), draws(8, seed=1)]
    assert all(a != b for other in others for a, b in zip(first, other, strict=True))

"""One rank of a run whose ranks have all sets of modalities, one pair of sets a step: started by test_presence."""

import sys
from pathlib import Path

import torch
from gradients import BERT, VIT, trainer_of
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from datamodules.batch import Batch
from datamodules.samples import SampleDataModule
from datamodules.shards.order import Order
from modules.encoders.audio import AudioEncoder
from modules.encoders.huggingface import ImageEncoder, TextEncoder
from modules.fusion.cross_attention import CrossAttentionFusion
from modules.objectives.contrastive import InfoNCE, SigLIP
from modules.objectives.draws import Draws
from modules.objectives.matching import Matching
from modules.objectives.weighted import Weighted
from modules.parallel import whole
from stages.align import Align
from stages.stage import Stage

TRUNK = {"model_type": "modernbert", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
BATCH = 8
HEARING = {**TRUNK, "num_attention_heads": 4, "global_attn_every_n_layers": 1}


class KeepAllGradients(Callback):
    """Writes the gradients of every step, from the first rank."""

    def __init__(self, file: Path) -> None:
        self.file, self.steps = file, []

    def on_train_start(self, trainer: Trainer, pl_module: Stage) -> None:
        trainer.optimizers[0].register_step_post_hook(lambda *_: self.keep(pl_module))

    def keep(self, stage: Stage) -> None:
        named = ((name, parameter.grad) for name, parameter in stage.named_parameters())
        self.steps.append({name: whole(grad).clone() for name, grad in named if grad is not None})

    def on_train_end(self, trainer: Trainer, pl_module: Stage) -> None:
        if trainer.is_global_zero:
            torch.save(self.steps, self.file)


class PlacedDraws(Draws):
    """Draws of one process for eight samples, some left out: each keeps its place, as it does where a rank has none."""

    places: list[int]

    def uniform(self, samples: int, columns: int) -> Tensor:
        return super().uniform(BATCH, columns)[self.places]


class KeepPlaces(Callback):
    """Tells the draws which samples of a step there are; a key ends in the sample's number."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Stage, batch: Batch, batch_idx: int) -> None:
        draws = pl_module.objective.objectives["match"].draws
        draws.places = [int(key[-6:]) % BATCH for key in batch.keys]


def aligned(tokenizer: str) -> Align:
    torch.manual_seed(0)
    encoders = {
        "image": ImageEncoder(config=VIT),
        "audio": AudioEncoder(HEARING, sampling_rate=8000, max_seconds=0.5, num_mels=20),
        "text": TextEncoder(config=BERT, tokenizer=tokenizer, max_tokens=48),
    }
    fusion = CrossAttentionFusion(dict.fromkeys(encoders, 32), 32, num_layers=1, num_heads=4)
    objective = Weighted({"near": InfoNCE(), "pairs": SigLIP(), "match": Matching(fusion, group=4)})
    return Align(encoders, 16, objective)


if __name__ == "__main__":
    torch.set_num_threads(1)
    strategy, ranks, folder, steps = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    stage = aligned(str(folder / "tokenizer.json"))
    stage.optim.factor = lambda step, max_steps: 0.0  # every step from the same weights
    callbacks: list[Callback] = [KeepAllGradients(folder / f"presence-{strategy}.pt")]
    if strategy == "one":
        stage.objective.objectives["match"].draws = PlacedDraws(0)
        callbacks.append(KeepPlaces())
    data = SampleDataModule(
        str(folder / "presence"),
        batch_size=BATCH,
        num_workers=0,
        max_bad_fraction=1.0,
        input_configs=stage.input_configs,
        require=stage.require,
    )
    data.order = Order(BATCH * steps, seed=0, shuffle=False)
    trainer_of(strategy, ranks, max_steps=steps, callbacks=callbacks).fit(stage, data)

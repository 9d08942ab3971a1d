"""One rank of a run that takes one step with every kind of loss and leaves the gradients: started by test_gradients."""

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from datamodules.samples import SampleDataModule
from modules.encoders.huggingface import ImageEncoder, TextEncoder
from modules.fusion.cross_attention import CrossAttentionFusion
from modules.language_model import LanguageModel
from modules.objectives.contrastive import InfoNCE, SigLIP
from modules.objectives.masked_language import MaskedLanguage
from modules.objectives.matching import Matching
from modules.objectives.weighted import Weighted
from modules.parallel import gathered, plain_name, whole
from stages.align import Align
from stages.instruct import Instruct
from stages.pretrain import Pretrain
from stages.stage import Stage
from stages.strategies import FlatSharded, Pipeline, Sharded

BATCH = 32
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BERT = {"model_type": "bert", **SMALL, **WITHOUT_DROPOUT}
VIT = {"model_type": "vit", "image_size": 32, "patch_size": 8, **SMALL, **WITHOUT_DROPOUT}
LLAMA = {"model_type": "llama", "max_position_embeddings": 256, **SMALL}
DEEP = {**LLAMA, "num_hidden_layers": 4}


class FixedMasks(MaskedLanguage):
    """Hides tokens by their place, so that it does not matter which rank hides them."""

    def corrupt(self, inputs):
        ids = inputs["input_ids"]
        place = torch.arange(ids.shape[1]) + ids[:, :2].sum(1, keepdim=True)
        chosen = (place % 4 == 0) & inputs["attention_mask"].bool()
        return {**inputs, "input_ids": ids.masked_fill(chosen, self.mask_id)}, torch.where(chosen, ids, -100)


class KeepGradients(Callback):
    """Writes the gradients that the optimiser was given, from the first rank: Lightning makes them within its step."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_start(self, trainer: Trainer, pl_module: Stage) -> None:
        trainer.optimizers[0].register_step_post_hook(lambda *_: self.keep(trainer, pl_module))

    def keep(self, trainer: Trainer, stage: Stage) -> None:
        with gathered(trainer.strategy.model, with_gradients=True):
            gradients = {
                plain_name(name): whole(parameter.grad).clone()
                for name, parameter in stage.named_parameters()
                if parameter.grad is not None
            }
        if stage.pipeline is not None:
            own = stage.pipeline.own_parameters()
            mine = {name: value.grad for name, value in stage.named_parameters() if value in own}
            gradients |= stage.pipeline.gather(mine)
        if trainer.is_global_zero:
            torch.save(gradients, self.file)


def stage_of(case: str, tokenizer: str, chunks: int) -> Stage:
    torch.manual_seed(0)
    text = TextEncoder(config=BERT, tokenizer=tokenizer, max_tokens=48)
    image = ImageEncoder(config=VIT)
    encoders = {"image": image, "text": text}
    if case == "masked":
        return Pretrain("text", text, FixedMasks)
    if case in ("tokens", "deep"):
        language_model = LanguageModel(
            config=LLAMA if case == "tokens" else DEEP, tokenizer=tokenizer, max_tokens=128
        )
        return Instruct(language_model, {"image": image})
    if case == "causal-tower":
        encoders["text"] = LanguageModel(config=LLAMA, tokenizer=tokenizer, max_tokens=48)
    objectives = {"clip": InfoNCE, "siglip": SigLIP, "causal-tower": InfoNCE, "matching": matching}
    return Align(encoders, 16, objectives[case](), chunks=chunks)


def matching() -> Weighted:
    fusion = CrossAttentionFusion({"image": 32, "text": 32}, 32, num_layers=1, num_heads=4)
    return Weighted({"near": InfoNCE(), "match": Matching(fusion, group=4)})


def step(case: str, folder: Path, strategy: str, ranks: int, pieces: int, clip: float | None) -> None:
    """Take one step on 32 samples, in `pieces` batches in turn, or as one batch encoded in pieces."""
    compares = case not in ("masked", "tokens", "deep")
    stage = stage_of(case, str(folder / "tokenizer.json"), pieces if compares else 1)
    data = SampleDataModule(
        str(folder / ("instructions" if case in ("tokens", "deep") else "scenes")),
        batch_size=BATCH if compares else BATCH // pieces,
        num_workers=0,
        input_configs=stage.input_configs,
        require=stage.require,
    )
    trainer_of(
        strategy,
        ranks,
        max_steps=1,
        accumulate_grad_batches=1 if compares else pieces,
        gradient_clip_val=clip,
        callbacks=[KeepGradients(folder / name_of(case, strategy, ranks, pieces, clip))],
    ).fit(stage, data)


def trainer_of(strategy: str, ranks: int, **more: Any) -> Trainer:
    """Return a trainer on so many CPUs that writes nothing but what its callbacks do."""
    return Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=STRATEGIES[strategy](ranks),
        max_epochs=-1,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        **more,
    )


def name_of(case: str, strategy: str, ranks: int, pieces: int, clip: float | None) -> str:
    return f"{case}-{strategy}-{ranks}-{pieces}{'-clipped' if clip else ''}.pt"


STRATEGIES = {
    "one": lambda ranks: "auto",
    "ddp": lambda ranks: DDPStrategy(process_group_backend="gloo"),
    "fsdp2": lambda ranks: Sharded(),
    "fsdp1": lambda ranks: FlatSharded(),
    "tp": lambda ranks: Sharded(tensor_parallel_size=ranks),
    "fsdp2+tp": lambda ranks: Sharded(tensor_parallel_size=2),
    "hybrid": lambda ranks: Sharded(replicas=2),
    "hybrid+tp": lambda ranks: Sharded(tensor_parallel_size=2, replicas=ranks // 4),
    "pipeline": lambda ranks: Pipeline(),
    "pipeline-whole": lambda ranks: Pipeline(microbatches=1),
    "pipeline-uneven": lambda ranks: Pipeline(microbatches=3),
    "ddp+pipeline": lambda ranks: Pipeline(size=2),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    strategy, ranks, folder, cases = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4].split(",")
    for case in cases:
        for pieces in (1, 4):
            step(case, folder, strategy, ranks, pieces, None)
        step(case, folder, strategy, ranks, 1, clip=0.01)

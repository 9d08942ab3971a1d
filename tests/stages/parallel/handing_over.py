"""One rank of a run that leaves parts: started by test_handing_over."""

import sys
from pathlib import Path

import torch
from gradients import LLAMA, VIT, stage_of, trainer_of
from lightning.pytorch import Callback, Trainer

from callbacks.parts import WriteParts
from datamodules.samples import SampleDataModule
from modules.adapters import adapt
from modules.encoders.huggingface import ImageEncoder
from modules.language_model import LanguageModel
from stages.instruct import Instruct
from stages.stage import Stage

LORA = {"peft_type": "LORA", "target_modules": ["q_proj", "v_proj"], "r": 2}


class Hold(Callback):
    """Takes the first step without moving a weight."""

    def on_train_start(self, trainer: Trainer, pl_module: Stage) -> None:
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 0.0


def handing_over(case: str, tokenizer: str) -> Stage:
    if case not in ("tied", "adapted"):
        return stage_of(case, tokenizer, chunks=1)
    torch.manual_seed(0)
    config = {**LLAMA, "tie_word_embeddings": case == "tied"}
    language_model = LanguageModel(config=config, tokenizer=tokenizer, max_tokens=128)
    if case == "adapted":
        adapt(language_model, LORA)
        for name, parameter in language_model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return Instruct(language_model, {"image": ImageEncoder(config=VIT)})


def train(case: str, folder: Path, strategy: str, ranks: int, steps: int) -> None:
    """Leave the parts of so many steps; 0 is one step that moves nothing."""
    stage = handing_over(case, str(folder / "tokenizer.json"))
    data = SampleDataModule(
        str(folder / ("scenes" if case == "clip" else "instructions")),
        batch_size=32,
        num_workers=0,
        input_configs=stage.input_configs,
        require=stage.require,
    )
    left = folder / "left" / f"{strategy}-{ranks}" / f"{case}-{steps}"
    trainer_of(
        strategy,
        ranks,
        max_steps=max(steps, 1),
        gradient_clip_val=0.1,
        callbacks=[WriteParts(left), *([] if steps else [Hold()])],
    ).fit(stage, data)


if __name__ == "__main__":
    torch.set_num_threads(1)
    strategy, ranks, folder, cases = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4].split(",")
    for case in cases:
        for steps in (0, 3):
            train(case, folder, strategy, ranks, steps)

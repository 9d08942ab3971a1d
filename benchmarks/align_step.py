"""A training step of align beside open_clip's own: samples a second, same towers, batch, data, optimiser, precision.

  python -m benchmarks.align_step                       # ViT-B/32 on the CPU: about ten minutes on two idle cores
  python -m benchmarks.align_step --device cuda --batch 1024
  python -m benchmarks.align_step --size tiny --batch 4 --rounds 1      # seconds, to see that it runs

Theirs is `open_clip_train.train.train_one_epoch` on the model that open_clip builds, with its ClipLoss, the AdamW of
its main.py and its cosine schedule. Ours is `stages.align.Align` under Lightning's Trainer as `python -m stages.align`
sets it up: two OpenClip encoders with the same weights, projections behind them (which theirs has not), InfoNCE. Both
get the same pictures, theirs normalised beforehand, and the same token ids, theirs padded to the context length of 77.
Rounds alternate; figures are medians over rounds.

Captions: `typical` have as many words as Conceptual Captions' (mean 10.3, standard deviation 4.5, drawn from a
lognormal distribution) and two special tokens; `full` fill the whole context, the worst case: nothing can be trimmed.
Precision `bf16` is autocast to bfloat16 in both (`amp_bf16`, `bf16-mixed`), `fp32` rounds nothing in either.

The last line is one JSON object: `samples_per_s_over_open_clip_fp32` and `…_bf16` compare like with like on typical
captions, `…_fp32_full` and `…_bf16_full` on full ones; `cpu_…` are the same in CPU time, the better figure on a busy
machine; `bf16_over_open_clip_fp32` is what changing both library and precision gives. On a GPU `mfu` by run.
"""

import argparse
import gc
import json
import logging
import statistics
import tempfile
import time
import warnings
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.float32_products import Float32Products
from datamodules.batch import Batch
from datamodules.modalities.text import Text
from modules.encoders.open_clip import OpenClipImageEncoder, OpenClipTextEncoder
from modules.objectives.contrastive import InfoNCE
from stages.align import Align
from stages.optim import Optim

LR, WEIGHT_DECAY = 5e-4, 0.2  # open_clip's defaults for its ViTs
PRECISIONS = {"fp32": ("fp32", "32-true"), "bf16": ("amp_bf16", "bf16-mixed")}
WORDS = (
    "a",
    "the",
    "of",
    "in",
    "on",
    "with",
    "two",
    "red",
    "small",
    "man",
    "dog",
    "street",
    "water",
    "tree",
    "city",
)
TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@dataclass
class Task:
    """What is measured: one precision on one kind of captions."""

    config: dict[str, Any]
    device: torch.device
    precision: str
    captions: str
    batch: int
    steps: int
    rounds: int
    seconds: dict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: {"ours": [], "open_clip": []}
    )
    """Of the clock and of the CPU, for a step, by round."""

    def samples_per_s(self, whose: str, clock: int = 0) -> float:
        return self.batch / statistics.median(times[clock] for times in self.seconds[whose][1:])


def main() -> None:
    """Measure all that is asked for, print a table and the JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=["ViT-B-32", "tiny"], default="ViT-B-32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1, help="of a round")
    parser.add_argument("--rounds", type=int, default=5, help="that count, behind one that does not")
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--captions", nargs="+", choices=["typical", "full"], default=["typical", "full"])
    parser.add_argument("--peak_tflops", type=float, default=989.0, help="of the GPU in bfloat16; an H100's")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    import open_clip

    config = TINY if given.size == "tiny" else open_clip.get_model_config(given.size)
    device = torch.device(given.device)
    figures: dict[str, Any] = {
        "size": given.size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "batch": given.batch,
        "threads": torch.get_num_threads(),
        "rounds": given.rounds,
    }
    print(
        f"{'captions':>8} {'precision':>9} {'samples/s ours':>14} {'open_clip':>9} {'ratio':>6} {'CPU ratio':>9}"
    )
    rates = {}
    for captions in given.captions:
        for precision in given.precisions:
            task = Task(config, device, precision, captions, given.batch, given.steps, given.rounds)
            found = measured(task, 1e12 * given.peak_tflops)
            run = precision if captions == "typical" else f"{precision}_{captions}"
            figures |= {f"{name}_{run}": value for name, value in found.items()}
            ours, theirs = (
                rates.setdefault((whose, captions, precision), task.samples_per_s(whose))
                for whose in ("ours", "open_clip")
            )
            print(
                f"{captions:>8} {precision:>9} {ours:>14.2f} {theirs:>9.2f} {ours / theirs:>6.2f} "
                f"{found['cpu_time_of_open_clip_over_ours']:>9.2f}",
                flush=True,
            )
    if {("ours", "typical", "bf16"), ("open_clip", "typical", "fp32")} <= rates.keys():
        gain = rates["ours", "typical", "bf16"] / rates["open_clip", "typical", "fp32"]
        figures["bf16_over_open_clip_fp32"] = round(gain, 3)
    print(json.dumps(figures))


def measured(task: Task, peak_flops: float) -> dict[str, float]:
    """Run both, in turns, and return what compares them."""
    seed_everything(0, verbose=False)
    theirs, ours = peer(task.config).to(task.device), align(task.config)
    take_weights(ours, theirs)
    batches, their_batches = data(task, ours)
    difference = embedding_difference(
        ours.to(task.device), theirs, batches[0].to(task.device), their_batches[0]
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator=task.device.type if task.device.type == "cpu" else "gpu",
            devices=1,
            precision=PRECISIONS[task.precision][1],
            max_steps=task.steps * (task.rounds + 1) + 1,  # the last step stops the clock of the last round
            max_epochs=-1,
            logger=TensorBoardLogger(folder),
            log_every_n_steps=10,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            callbacks=[Float32Products()],
        )
        trainer.fit(ours, datamodule=Turns(task, batches, Peer(task, theirs, their_batches)))
    rates = {whose: task.samples_per_s(whose) for whose in task.seconds}
    by_cpu = task.samples_per_s("ours", 1) / task.samples_per_s("open_clip", 1)
    found = {
        "samples_per_s_over_open_clip": round(rates["ours"] / rates["open_clip"], 3),
        "cpu_time_of_open_clip_over_ours": round(by_cpu, 3),
        "samples_per_s": round(rates["ours"], 3),
        "open_clip_samples_per_s": round(rates["open_clip"], 3),
        "embedding_difference": difference,
    }
    if task.device.type == "cuda" and task.precision == "bf16":
        work = flops(ours, batches[0].to(task.device)) / task.batch
        found |= {
            "mfu": round(work * rates["ours"] / peak_flops, 4),
            "open_clip_mfu": round(work * rates["open_clip"] / peak_flops, 4),
        }
    del ours, theirs, trainer
    gc.collect()
    return found


class Turns(LightningDataModule):
    """Gives our trainer its batches; between two rounds of them open_clip has its turn."""

    def __init__(self, task: Task, batches: list[Batch], peer: "Peer") -> None:
        super().__init__()
        self.task, self.batches, self.peer = task, batches, peer

    def train_dataloader(self) -> "Turns":
        return self

    def __len__(self) -> int:
        return self.task.steps * (self.task.rounds + 1) + 1  # known, so that Lightning fetches none ahead

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.task.rounds + 1):
            began = clocks(self.task.device)
            self.peer.round()
            between = clocks(self.task.device)
            yield from self.batches
            ended = clocks(self.task.device)
            for whose, start, end in (("open_clip", began, between), ("ours", between, ended)):
                wall, cpu = ((b - a) / self.task.steps for a, b in zip(start, end, strict=True))
                self.task.seconds[whose].append((wall, cpu))
        yield self.batches[0]

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device, non_blocking=True)

    @property
    def train(self) -> "Turns":
        """The training samples, of which the stage asks what they have `together`."""
        return self

    def together(self) -> dict[tuple[str, str], int]:
        return {("image", "text"): self.task.batch * self.task.steps}

    def consumed(self, batch: Batch) -> None:
        """Take note of nothing: this run is not gone on with."""


class Peer:
    """open_clip's own training loop over as many steps as a round has."""

    def __init__(
        self, task: Task, model: torch.nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        from open_clip.loss import ClipLoss
        from open_clip_train.scheduler import cosine_lr

        def is_vector(name: str, parameter: torch.nn.Parameter) -> bool:  # as its main.py tells them
            return parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))

        named = list(model.named_parameters())
        groups = [
            {"params": [p for n, p in named if is_vector(n, p)], "weight_decay": 0.0},
            {"params": [p for n, p in named if not is_vector(n, p)], "weight_decay": WEIGHT_DECAY},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98), eps=1e-6)
        self.scheduler = cosine_lr(self.optimizer, LR, 1, len(batches) * (task.rounds + 1))
        self.model, self.loss, self.epoch = model, ClipLoss(), 0
        loader = Loader(batches)
        self.data = {"train": Namespace(dataloader=loader, set_epoch=lambda epoch: None)}
        self.args = Namespace(
            device=str(task.device),
            precision=PRECISIONS[task.precision][0],
            batch_size=task.batch,
            accum_freq=1,
            skip_scheduler=False,
            distill=False,
            horovod=False,
            grad_clip_norm=None,
            world_size=1,
            rank=0,
            local_rank=0,
            log_local=False,
            log_every_n_steps=100,
            wandb=False,
        )

    def round(self) -> None:
        """Train on every batch once, with torch's own choice of how float32 is multiplied."""
        from open_clip_train.train import train_one_epoch

        ours = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        train_one_epoch(
            self.model,
            self.data,
            self.loss,
            self.epoch,
            self.optimizer,
            scaler=None,
            scheduler=self.scheduler,
            dist_model=None,
            args=self.args,
        )
        torch.set_float32_matmul_precision(ours)
        self.epoch += 1


class Loader(list):
    """Batches, and what open_clip's loop asks of a loader."""

    @property
    def num_batches(self) -> int:
        return len(self)

    @property
    def num_samples(self) -> int:
        return sum(len(images) for images, _ in self)


def peer(config: dict[str, Any]) -> torch.nn.Module:
    """Return the model as open_clip builds it."""
    from open_clip.model import CLIP

    return CLIP(**config, output_dict=True)


def align(config: dict[str, Any]) -> Align:
    """Return the stage over the same towers."""
    encoders = {
        "image": OpenClipImageEncoder(config=config, pooled=True),
        "text": OpenClipTextEncoder(config=config, pooled=True),
    }
    optim = Optim(lr=LR, weight_decay=WEIGHT_DECAY)
    return Align(encoders, dim=config["embed_dim"], objective=InfoNCE(), optim=optim)


def take_weights(ours: Align, theirs: torch.nn.Module) -> None:
    """Give our towers the weights of theirs."""
    weights = theirs.state_dict()
    image = {
        name.removeprefix("visual."): value for name, value in weights.items() if name.startswith("visual.")
    }
    ours.encoders["image"].trunk.load_state_dict(image)
    text = ours.encoders["text"].trunk
    text.load_state_dict({name: weights[name] for name in text.state_dict()})


def data(task: Task, ours: Align) -> tuple[list[Batch], list[tuple[torch.Tensor, torch.Tensor]]]:
    """Return the same batches for us and for them.

    Raises:
        RuntimeError: when the token ids differ.
    """
    import open_clip

    draw = np.random.default_rng(0)
    image, text = ours.encoders["image"], ours.encoders["text"]
    modality = Text(**text.input_config["init_args"])
    tokenize = open_clip.SimpleTokenizer(context_length=text.max_tokens)
    our_batches, their_batches = [], []
    for step in range(task.steps):
        texts = captions(draw, task.captions, task.batch)
        inputs, padded = modality.collate(texts), tokenize(texts)
        found = inputs["input_ids"].masked_fill(~inputs["attention_mask"], 0)
        if not torch.equal(found, padded[:, : found.shape[1]]):
            raise RuntimeError(
                "our token ids are not open_clip's: the comparison would not be of the same data"
            )
        size = (task.batch, 3, image.image_size, image.image_size)
        pixels = torch.from_numpy(draw.integers(0, 256, size, dtype=np.uint8))
        rows, keys = torch.arange(task.batch), [f"{step}-{row}" for row in range(task.batch)]
        both = {"image": {"pixels": pixels}, "text": inputs}
        our_batches.append(Batch(both, {"image": rows, "text": rows}, keys))
        their_batches.append((image.normalised(pixels), padded))
    return our_batches, their_batches


def captions(draw: np.random.Generator, kind: str, count: int) -> list[str]:
    """Return captions of common words, each of which is one token of CLIP's."""
    if kind == "full":
        return [" ".join(draw.choice(WORDS, 80)) for _ in range(count)]
    spread = np.log(1 + (4.5 / 10.3) ** 2)
    lengths = draw.lognormal(np.log(10.3) - spread / 2, spread**0.5, count).round().clip(3, 60).astype(int)
    return [" ".join(draw.choice(WORDS, length)) for length in lengths]


@torch.no_grad()
def embedding_difference(
    ours: Align, theirs: torch.nn.Module, batch: Batch, peers: tuple[torch.Tensor, torch.Tensor]
) -> float:
    """Return how far our encoders' embeddings are from theirs at most, relative to the largest."""
    images, texts = (tensor.to(batch.rows["text"].device) for tensor in peers)
    found = []
    for name, expected in (("image", theirs.encode_image(images)), ("text", theirs.encode_text(texts))):
        embeddings = ours.encoders[name](batch.inputs[name]).features[:, 0]
        found.append(float((embeddings - expected).abs().max() / expected.abs().max()))
    return max(found)


def flops(ours: Align, batch: Batch) -> float:
    """Return the operations that a step on a batch needs: three times those of the forward."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        ours.to(batch.rows["text"].device).losses(batch)
    return 3.0 * counter.get_total_flops()


def clocks(device: torch.device) -> tuple[float, float]:
    """Return seconds of the clock and of the CPU, once the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


if __name__ == "__main__":
    main()

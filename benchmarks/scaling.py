"""What a step costs under each strategy and on more ranks, and what Lightning with all callbacks adds to a bare loop.

  python -m benchmarks.scaling                         # CPUs with gloo, on 1 and 2 ranks: a few minutes
  python -m benchmarks.scaling --ranks 1 2 4 8 --size base     # on a machine with eight GPUs

The stage is `align` with a ViT and a Llama as text tower (tensor parallel has a plan for that one), the command line
that of `python -m stages.align fit` with the files of `configs/trainer/`, and one batch that is in memory again and
again: no loading is timed. Weak scaling: each rank has the same number of samples, so a perfect strategy takes the same
time on any number of ranks. Tensor parallel shares a batch between two ranks, a pipeline among all: there a perfect one
takes half the time on two.

- `step_ms`: median over rounds of the time of a round's steps, by the clock.
- `memory_mib`: the most a rank held; on a GPU the allocator's, on a CPU what the process grew by since it had imported.
- `in_collectives`: share of the time in which a collective was under way, from the profiler; computing may go on
  meanwhile. On CPUs a rank that waits for a slower one is in a collective.
- `mfu`: on a GPU, at `--peak_tflops`.

Overhead: the same stage, batch and optimiser in a loop of a dozen lines and under the command line with checkpoints,
logger, bar and all other callbacks on, in turn within one process, on a model so small that little else is to be seen;
by the clock and in CPU time, the better figure on a busy machine.

The last line is one JSON object: `lightning_overhead_ms`, `lightning_overhead_cpu_ms`, and `runs` with a row for each
strategy and number of ranks.
"""

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.photos import make_shards
from datamodules.batch import Batch
from datamodules.preparation.tokenizer import train_tokenizer
from modules.collectives import world
from stages.stage import Stage
from stages.training import TrainingCLI

SIZES = {
    "tiny": {"width": 32, "layers": 2, "heads": 4, "image": 32, "patch": 16, "samples": 4},
    "small": {"width": 256, "layers": 6, "heads": 8, "image": 64, "patch": 8, "samples": 16},
    "base": {"width": 768, "layers": 12, "heads": 12, "image": 224, "patch": 16, "samples": 128},
}
COLLECTIVES = ("gloo:", "nccl:", "ncclDevKernel", "ncclKernel")
ON_ONE_RANK = ("ddp",)


def main() -> None:
    """Time every strategy on every number of ranks, and Lightning beside a bare loop."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="base" if on_gpu else "small")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--strategies", nargs="+", default=["ddp", "fsdp", "tensor_parallel", "pipeline"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of a round")
    parser.add_argument("--peak_tflops", type=float, default=989.0)
    parser.add_argument("--rank_of", help=argparse.SUPPRESS)  # a process that this one starts
    asked = parser.parse_args()
    if asked.rank_of:
        run_rank(Path(asked.rank_of), asked)
        return
    print(
        f"{torch.cuda.get_device_name() if on_gpu else f'CPU, {os.cpu_count()} cores'}, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = train_tokenizer(["a photograph of a red house near the river in the morning"], vocab_size=512)
        (folder / "tokenizer.json").write_text(words, encoding="utf-8")
        make_shards(folder / "shards", max(asked.ranks) * SIZES[asked.size]["samples"], seed=0)
        overhead = measured(folder, asked, "cpu" if not on_gpu else "gpu", 1, beside_bare_loop=True)
        print(
            f"a step under Lightning {overhead['step_ms']:.2f} ms, in a bare loop {overhead['bare_ms']:.2f} ms"
        )
        print(
            f"{'strategy':<18}{'ranks':>6}{'step ms':>10}{'of 1 rank':>11}{'MiB':>8}{'in collectives':>16}{'MFU':>7}"
        )
        rows = []
        for strategy in asked.strategies:
            for ranks in asked.ranks:
                if ranks == 1 and strategy not in ON_ONE_RANK:
                    continue
                row = {"strategy": strategy, "ranks": ranks, **measured(folder, asked, strategy, ranks)}
                rows.append(row)
                row["efficiency"] = round(rows[0]["step_ms"] / row["step_ms"], 3)
                print(
                    f"{strategy:<18}{ranks:>6}{row['step_ms']:>10.1f}{row['efficiency']:>11.2f}{row['memory_mib']:>8.0f}"
                    f"{row['in_collectives']:>16.2f}{row.get('mfu', float('nan')):>7.2f}",
                    flush=True,
                )
    more = {
        "lightning_overhead_ms": round(overhead["step_ms"] - overhead["bare_ms"], 3),
        "lightning_overhead_cpu_ms": round(overhead["step_cpu_ms"] - overhead["bare_cpu_ms"], 3),
    }
    print(json.dumps({**more, "overhead": overhead, "runs": rows}))


# ---- starting the ranks


def measured(
    folder: Path, asked: argparse.Namespace, strategy: str, ranks: int, beside_bare_loop: bool = False
) -> dict[str, float]:
    """Run one configuration in processes of its own and return what its first rank found."""
    size = SIZES["tiny" if beside_bare_loop else asked.size]
    shares = {"tensor_parallel": ranks // 2, "pipeline": 1}.get(strategy, ranks)
    samples = size["samples"] * shares
    run = Path(tempfile.mkdtemp(dir=folder))
    config = run / "align.yaml"
    config.write_text(yaml.safe_dump(align(folder, run, size, samples, ranks, asked)), encoding="utf-8")
    order = {"strategy": strategy, "bare": beside_bare_loop, "found": str(run / "found.json")}
    (run / "order.json").write_text(json.dumps(order), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "scaling",
    }
    command = [
        sys.executable,
        "-m",
        "benchmarks.scaling",
        "--rank_of",
        str(run),
        "--rounds",
        str(asked.rounds),
    ]
    command += ["--steps", str(asked.steps), "--peak_tflops", str(asked.peak_tflops)]
    logs = [open(run / f"{rank}.log", "w") for rank in range(ranks)]  # noqa: SIM115
    processes = []
    for rank, log in enumerate(logs):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        environment = {**os.environ, **(shared if strategy not in ("cpu", "gpu") else {}), **own}
        if not torch.cuda.is_available():
            environment["OMP_NUM_THREADS"] = "1"  # each rank has a core
        processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    codes = [process.wait() for process in processes]
    for log in logs:
        log.close()
    if any(codes):
        raise SystemExit(
            f"{strategy} on {ranks} ranks failed:\n{(run / '0.log').read_text(encoding='utf-8')[-3000:]}"
        )
    found: dict[str, float] = json.loads((run / "found.json").read_text(encoding="utf-8"))
    return found


def align(
    folder: Path, run: Path, size: dict[str, int], samples: int, ranks: int, asked: argparse.Namespace
) -> dict[str, Any]:
    """Return the config of a run, but for its trainer's strategy."""
    trunk = {
        "hidden_size": size["width"],
        "intermediate_size": 4 * size["width"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
    }
    vit = {"model_type": "vit", "image_size": size["image"], "patch_size": size["patch"], **trunk}
    llama = {"model_type": "llama", "max_position_embeddings": 64, **trunk}
    text = {"config": llama, "tokenizer": str(folder / "tokenizer.json"), "max_tokens": 64}
    return {
        "run_dir": str(run / "run"),
        "model": {
            "encoders": {
                "image": {
                    "class_path": "modules.encoders.huggingface.ImageEncoder",
                    "init_args": {"config": vit},
                },
                "text": {"class_path": "modules.language_model.LanguageModel", "init_args": text},
            },
            "dim": size["width"],
            "objective": {"class_path": "modules.objectives.contrastive.InfoNCE"},
        },
        "data": {"train": str(folder / "shards"), "batch_size": samples, "num_workers": 0},
        "trainer": {
            "max_steps": asked.steps * (asked.rounds + 1) + 3 + 1,
            "num_nodes": 1,
            "devices": ranks,
            "gradient_clip_val": 1.0,
        },
    }


# ---- in a rank


def run_rank(run: Path, asked: argparse.Namespace) -> None:
    """Train as `python -m stages.align fit` does, by the clock."""
    order = json.loads((run / "order.json").read_text(encoding="utf-8"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    arguments = [
        "fit",
        "--config",
        str(run / "align.yaml"),
        "--config",
        f"configs/trainer/{order['strategy']}.yaml",
    ]
    arguments += [
        "--trainer.devices",
        str(yaml.safe_load((run / "align.yaml").read_text())["trainer"]["devices"]),
    ]
    if not torch.cuda.is_available():
        arguments += ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
    Timed.clock = Clock(asked.rounds, asked.steps, order["bare"], asked.peak_tflops)
    Timed.of("stages.align.Align", arguments)
    found = Timed.clock.found
    if not torch.cuda.is_available():
        found["memory_mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if os.environ["RANK"] == "0":
        Path(order["found"]).write_text(json.dumps(found), encoding="utf-8")


class Timed(TrainingCLI):
    """The command line of a stage, whose training gets one batch again and again."""

    clock: "Clock"

    def fit(self, model: Stage, **kwargs: Any) -> None:
        data = kwargs["datamodule"]
        # As late as the loader is asked for: a strategy has said by then which ranks share a batch.
        data.train_dataloader = lambda: Repeated(self.clock, data.example(world()[1]), model)
        super().fit(model, **kwargs)


@dataclass
class Repeated:
    """Gives a batch as often as it is asked, and notes when."""

    clock: "Clock"
    batch: Batch
    stage: Stage

    def __iter__(self) -> Iterator[Batch]:
        return self.clock.turns(self.batch, self.stage)


class Clock:
    """Rounds of steps, between the first of which and the last nothing else runs; a few steps before are not counted.

    Args:
        rounds: how many are timed.
        steps: of a round.
        beside_bare_loop: whether a bare loop has its turn after each round.
        peak_tflops: of the GPU.
    """

    def __init__(self, rounds: int, steps: int, beside_bare_loop: bool, peak_tflops: float) -> None:
        self.rounds, self.steps = rounds, steps
        self.beside_bare_loop, self.peak_tflops = beside_bare_loop, peak_tflops
        self.found: dict[str, float] = {}

    def turns(self, batch: Batch, stage: Stage) -> Iterator[Batch]:
        """Yield the batch; the time between two requests is that of a step."""
        bare = BareLoop(stage, batch) if self.beside_bare_loop else None
        yield from (batch,) * 3
        if bare:
            bare.run(3)
        seconds: dict[str, list[float]] = {"step_ms": [], "step_cpu_ms": [], "bare_ms": [], "bare_cpu_ms": []}
        for _ in range(self.rounds):
            begin, begin_cpu = now()
            yield from (batch,) * self.steps
            end, end_cpu = now()
            seconds["step_ms"].append(end - begin)
            seconds["step_cpu_ms"].append(end_cpu - begin_cpu)
            if bare:
                begin, begin_cpu = now()
                bare.run(self.steps)
                end, end_cpu = now()
                seconds["bare_ms"].append(end - begin)
                seconds["bare_cpu_ms"].append(end_cpu - begin_cpu)
        for name, each in seconds.items():
            if each:
                self.found[name] = 1000 * statistics.median(each) / self.steps
        if torch.cuda.is_available():
            self.found["memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
            work = flops(stage, batch)
            self.found["mfu"] = work / (self.found["step_ms"] / 1000 * self.peak_tflops * 1e12)
        gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        begin, _ = now()
        with profile(activities=[ProfilerActivity.CPU, *gpu]) as seen:
            yield from (batch,) * self.steps
            end, _ = now()
        self.found["in_collectives"] = in_collectives(seen) / (end - begin)
        while True:
            yield batch


class BareLoop:
    """What a step needs and no more."""

    def __init__(self, stage: Stage, batch: Batch) -> None:
        self.stage, self.batch = stage, batch
        self.optimizer = torch.optim.AdamW(stage.parameters(), lr=1e-4, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 / (step + 1))

    def run(self, steps: int) -> None:
        for _ in range(steps):
            batch = self.batch.to(self.stage.device)
            total = torch.stack(list(self.stage.losses(batch).values())).sum()
            total.backward()
            torch.nn.utils.clip_grad_norm_(self.stage.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()


def flops(stage: Stage, batch: Batch) -> float:
    """Return the operations of a step: three times those of the forward."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        stage.losses(batch.to(stage.device))
    return 3.0 * counter.get_total_flops()


def in_collectives(seen: profile) -> float:
    """Return the seconds during which at least one collective was under way."""
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in seen.events()
        if event.name.startswith(COLLECTIVES)
    )
    total = until = 0.0
    for begin, end in spans:
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total / 1e6


def now() -> tuple[float, float]:
    """Return seconds of the clock and of the CPU, once the device has done its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


if __name__ == "__main__":
    main()

"""Contrastive losses beside open_clip's: peak extra memory and time of one forward and backward, in float32.

Needs about 8 GiB for the default batch of 16 384, open_clip's share; some minutes on a CPU core.
  python -m benchmarks.contrastive
  python -m benchmarks.contrastive --loss siglip --batches 2048 4096 8192
With others at work on the machine, OMP_NUM_THREADS=1 gives steadier ratios than threads that wait for each other.
Memory is the growth of ru_maxrss in a process of its own for each figure, time the median of steps that alternate
in one process. The last line is one JSON object, about the largest batch.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# This process imports no torch: a child's ru_maxrss starts at the size of its parent.


def main() -> None:
    """Measure both, print a table and the JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loss", choices=["clip", "siglip"], default="clip")
    parser.add_argument("--batches", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each")
    parser.add_argument("--measure", choices=["memory", "time"], help=argparse.SUPPRESS)
    parser.add_argument("--whose", choices=["ours", "open_clip"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure == "memory":
        return print(json.dumps(memory(options.loss, options.whose, options.batches[0], options.dim)))
    if options.measure == "time":
        return print(json.dumps(seconds(options.loss, options.batches[0], options.dim, options.repeats)))

    print(
        f"{options.loss}, width {options.dim}, float32, forward and backward\n"
        f"{'batch':>6} {'MiB ours':>9} {'open_clip':>9} {'ratio':>6}   {'s ours':>7} {'open_clip':>9} {'ratio':>6}"
    )
    figures: dict = {}
    growth = {}
    for batch in sorted(options.batches):
        size = {whose: child(options, batch, "memory", whose) for whose in ("ours", "open_clip")}
        spent = child(options, batch, "time")
        wall, cpu = spent["wall"], spent["cpu"]
        growth[batch] = size["ours"]
        figures = {
            "loss": options.loss,
            "batch": batch,
            "dim": options.dim,
            "threads": spent["threads"],
            "memory_over_open_clip": round(size["ours"] / size["open_clip"], 4),
            "time_over_open_clip": round(wall["ours"] / wall["open_clip"], 4),
            "cpu_time_over_open_clip": round(cpu["ours"] / cpu["open_clip"], 4),
            "relative_difference_of_the_loss": spent["difference"],
            "our_bytes_by_batch": growth,
        }
        mib = {whose: value / 2**20 for whose, value in size.items()}
        print(
            f"{batch:>6} {mib['ours']:>9.0f} {mib['open_clip']:>9.0f} {figures['memory_over_open_clip']:>6.3f}   "
            f"{wall['ours']:>7.2f} {wall['open_clip']:>9.2f} {figures['time_over_open_clip']:>6.3f}",
            flush=True,
        )
    print(json.dumps(figures))


def child(options: argparse.Namespace, batch: int, measure: str, whose: str = "ours"):
    """Return what a fresh process measured."""
    arguments = {"loss": options.loss, "dim": options.dim, "repeats": options.repeats}
    arguments |= {"batches": batch, "measure": measure, "whose": whose}
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.contrastive", *words], stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def memory(loss: str, whose: str, batch: int, dim: int) -> int:
    """Return the bytes by which one step raises the peak of this process, inputs not counted."""
    first, second = vectors(batch, dim, seed=1), vectors(batch, dim, seed=2)
    step = losses(loss)[whose]
    step(vectors(64, dim, seed=1), vectors(64, dim, seed=2))  # libraries take their own memory at first use
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # Linux: the peak that imports have left starts anew from what is in use
    before = peak_bytes()
    step(first, second)
    return peak_bytes() - before


def seconds(loss: str, batch: int, dim: int, repeats: int) -> dict:
    """Return medians of wall and CPU time in seconds, of steps that alternate between the two."""
    import torch

    first, second = vectors(batch, dim, seed=1), vectors(batch, dim, seed=2)
    wall: dict[str, list[float]] = {"ours": [], "open_clip": []}
    cpu: dict[str, list[float]] = {"ours": [], "open_clip": []}
    value = {}
    for _ in range(repeats + 1):
        for whose, step in losses(loss).items():
            began = time.perf_counter(), time.process_time()
            value[whose] = step(first, second)
            wall[whose].append(time.perf_counter() - began[0])
            cpu[whose].append(time.process_time() - began[1])
    return {
        "wall": {whose: statistics.median(times[1:]) for whose, times in wall.items()},
        "cpu": {whose: statistics.median(times[1:]) for whose, times in cpu.items()},
        "threads": torch.get_num_threads(),
        "difference": abs(value["ours"] / value["open_clip"] - 1),
    }


def losses(loss: str) -> dict[str, Callable]:
    """Return one step of each, from unit vectors to the value of the loss; gradients are dropped."""
    import torch
    from open_clip.loss import ClipLoss, SigLipLoss

    from modules.objectives.aligned import Aligned
    from modules.objectives.contrastive import InfoNCE, SigLIP

    objective = InfoNCE() if loss == "clip" else SigLIP()

    def ours(first, second) -> float:
        rows = torch.arange(len(first))
        embeddings = {"image": first, "text": second}
        aligned = Aligned(embeddings, {"image": rows, "text": rows}, len(first), tokens={})
        total = objective(aligned)["image_text"]
        return finish(total, first, second)

    def theirs(first, second) -> float:
        if loss == "clip":
            return finish(ClipLoss()(first, second, objective.scale()), first, second)
        total = SigLipLoss()(first, second, objective.scale(), objective.logit_bias)
        return finish(total, first, second)

    def finish(total, first, second) -> float:
        total.backward()
        first.grad = second.grad = None
        return total.item()

    return {"ours": ours, "open_clip": theirs}


def vectors(batch: int, dim: int, seed: int):
    """Return unit vectors (batch, dim) that ask for a gradient."""
    import torch

    rows = torch.randn(batch, dim, generator=torch.Generator().manual_seed(seed))
    return rows.div_(rows.norm(dim=1, keepdim=True)).requires_grad_()


def peak_bytes() -> int:
    """Return the largest resident size of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()

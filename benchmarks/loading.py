"""How much CPU and time a sample costs to load, ours beside others, interleaved on the same shards.

    python benchmarks/loading.py [--samples 1024] [--rounds 5]
    python benchmarks/loading.py --profile     # where our own time goes, and nothing else

Needs `open_clip_torch`; litdata and mosaicml-streaming (`pip install -e '.[benchmark]'`) are left out where they are
not installed. Takes two to twenty minutes on two cores, as busy as they are. The last line is one JSON object:

- `ours_over_open_clip`: how many times less CPU a training sample costs us than open_clip's own pipeline, in one
  process, median over rounds of the ratio within a round; `…_normalised_on_cpu`: the same with our pictures
  normalised as floats on the CPU too, which the model does on the device; `…_eval`, `…_2_workers_wall`: likewise.
- `random_read_over_open_clip_tar`: how many times faster raw members are read in random order than open_clip's
  reader goes through the same tars in order.
- `resume_share_of_pass`: CPU of building everything anew in the middle, beyond that of a batch, over a whole pass.
- `tokens_over_open_clip`: how many times less CPU the texts cost.
- `cpu_ms_per_sample`, `wall_ms_per_sample`: medians by pipeline and mode.
"""

import os

# One thread each: set before anything that reads it is imported.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

import argparse
import cProfile
import gc
import json
import pstats
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import pipelines
from benchmarks.photos import make_shards
from benchmarks.pipelines import PASSES, Task

OTHERS = ("webdataset", "litdata", "mosaicml_streaming")
MODES = {"train": (True, 0), "eval": (False, 0), "train_2_workers": (True, 2)}


def main() -> None:
    """Make the shards, measure, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(Path(folder, "shards"), given.samples, given.seed)
        tasks = {
            mode: Task(shards, Path(folder), given.samples, given.batch_size, num_workers, is_train)
            for mode, (is_train, num_workers) in MODES.items()
        }
        if given.profile:
            profile(tasks["train"])
        else:
            print(json.dumps(measured(tasks, given.rounds)))


def measured(tasks: dict[str, Task], rounds: int) -> dict[str, Any]:
    """Return all figures."""
    absent = [name for name in PASSES if not pipelines.is_installed(name)]
    present = [name for name in PASSES if name not in absent]
    print(f"{os.cpu_count()} cores; absent: {', '.join(absent) or 'none'}", flush=True)
    cpu: dict[str, dict[str, list[float]]] = {}
    wall: dict[str, dict[str, list[float]]] = {}
    for mode, task in tasks.items():
        cpu[mode], wall[mode] = ({name: [] for name in present} for _ in range(2))
        for number in range(rounds + 1):
            for name in present:
                cpu_ms, wall_ms = one_pass(name, task)
                if number:  # the first one fills caches, and writes the copies of others
                    cpu[mode][name].append(cpu_ms)
                    wall[mode][name].append(wall_ms)
        for name in present:
            middle = f"{median(cpu[mode][name]):7.3f} ms CPU, {median(wall[mode][name]):7.3f} ms"
            print(f"{mode:16} {name:24} {middle} a sample", flush=True)
    train = tasks["train"]
    return {
        "ours_over_open_clip": ratio(cpu["train"], "open_clip", "ours"),
        "ours_over_open_clip_normalised_on_cpu": ratio(cpu["train"], "open_clip", "ours_normalised_on_cpu"),
        "ours_over_open_clip_eval": ratio(cpu["eval"], "open_clip", "ours"),
        "ours_over_open_clip_2_workers_wall": ratio(wall["train_2_workers"], "open_clip", "ours"),
        **{f"ours_over_{name}": ratio(cpu["train"], name, "ours") for name in present if name in OTHERS},
        **random_reading(train, rounds),
        **resuming(train, rounds, median(cpu["train"]["ours"])),
        **tokenising(train, rounds),
        "cpu_ms_per_sample": medians(cpu),
        "wall_ms_per_sample": medians(wall),
        "absent": absent,
        "rounds": rounds,
        "samples": train.count,
    }


def profile(task: Task) -> None:
    """Print the functions in which a pass of ours spends its time, the second pass."""
    one_pass("ours", task)
    profiler = cProfile.Profile(time.process_time)
    with profiler:
        for _ in PASSES["ours"](task):
            pass
    pstats.Stats(profiler).sort_stats("tottime").print_stats(16)


def one_pass(name: str, task: Task) -> tuple[float, float]:
    """Return milliseconds of CPU, of workers too, and of the clock for each sample that came out."""
    gc.collect()
    workers_before = cpu_s(resource.RUSAGE_CHILDREN)
    before, start, count = cpu_s(), time.perf_counter(), 0
    for pixels in PASSES[name](task):
        if pixels.shape[1:] != (3, pipelines.SIZE, pipelines.SIZE):
            raise RuntimeError(f"{name} made pictures of shape {tuple(pixels.shape)}")
        count += len(pixels)
    wall_s, own_s = time.perf_counter() - start, cpu_s()
    if task.num_workers:
        gc.collect()  # ends the workers, whose time is known then
        own_s += cpu_s(resource.RUSAGE_CHILDREN) - workers_before
    if count < 0.9 * task.count:
        raise RuntimeError(f"{name} made {count} samples of {task.count}")
    return 1e3 * (own_s - before) / count, 1e3 * wall_s / count


def random_reading(task: Task, rounds: int) -> dict[str, float]:
    """Compare raw members by position, in random order, with open_clip's reader in the order of the tars."""
    from datamodules.shards.reader import ShardReader

    reader = ShardReader([str(task.shards)])
    read_tars = pipelines.open_clip_data().tarfile_to_samples_nothrow
    order = np.random.default_rng(0).permutation(len(reader)).tolist()

    def by_position() -> None:
        for position in order:
            reader.sample(position)

    def through() -> None:
        for _ in read_tars({"url": tar} for tar in task.tars):
            pass

    mine, theirs = interleaved([by_position, through], rounds)
    return {
        "random_read_over_open_clip_tar": round(
            median([b / a for a, b in zip(mine, theirs, strict=True)]), 1
        ),
        "random_read_us_per_sample": round(1e6 * median(mine) / task.count, 2),
    }


def resuming(task: Task, rounds: int, cpu_ms_per_sample: float) -> dict[str, float]:
    """Return what it costs to build set and stream anew in the middle of a pass, beyond the batch itself."""
    from datamodules.stream import SampleStream, Share

    def resume() -> None:
        start = task.count // task.batch_size // 2 * task.batch_size
        stream = SampleStream(pipelines.sample_set(task), task.batch_size, Share(), seed=0, start=start)
        next(iter(stream))

    samples = pipelines.sample_set(task)
    stream = iter(SampleStream(samples, task.batch_size, Share(), seed=0, start=0))
    anew, going_on = interleaved([resume, lambda: next(stream)], rounds)
    beyond_s = median(anew) - median(going_on)
    return {
        "resume_share_of_pass": round(max(0.0, 1e3 * beyond_s / cpu_ms_per_sample / task.count), 4),
        "resume_cpu_s": round(max(0.0, beyond_s), 4),
    }


def tokenising(task: Task, rounds: int) -> dict[str, Any]:
    """Compare cleaning and tokenising the captions, ours in batches."""
    from datamodules.modalities.text import Text
    from modules.encoders.clip_tokenizer import clip_tokenizer

    texts = [sample["txt"] for sample in pipelines.raw_samples(task)]
    theirs, mine = pipelines.open_clip_tokenizer(), Text(clip_tokenizer(), pipelines.CONTEXT)
    ids = mine.collate(texts)["input_ids"]
    is_same = torch.equal(ids, theirs(texts)[:, : ids.shape[1]])

    def by_open_clip() -> None:
        for text in texts:
            theirs(text)

    def by_us() -> None:
        data = [text.encode() for text in texts]
        for first in range(0, len(data), task.batch_size):
            mine.collate([mine.decode(one, "txt") for one in data[first : first + task.batch_size]])

    ours, others = interleaved([by_us, by_open_clip], rounds)
    return {
        "tokens_over_open_clip": round(median([b / a for a, b in zip(ours, others, strict=True)]), 2),
        "tokens_are_the_same": is_same,
    }


def interleaved(tasks: list[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Return seconds of CPU of each task in each round, all once before as a warm-up."""
    seconds: list[list[float]] = [[] for _ in tasks]
    for number in range(rounds + 1):
        for task, spent in zip(tasks, seconds, strict=True):
            before = cpu_s()
            task()
            if number:
                spent.append(cpu_s() - before)
    return seconds


def cpu_s(who: int = resource.RUSAGE_SELF) -> float:
    """Return the CPU time of this process, or of its workers that have ended."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def ratio(times: dict[str, list[float]], other: str, mine: str) -> float:
    """Return the median over rounds of another's time over ours in the same round."""
    return round(median([b / a for a, b in zip(times[mine], times[other], strict=True)]), 2)


def medians(times: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Return the median by mode and pipeline."""
    return {
        mode: {name: round(median(values), 3) for name, values in by_name.items()}
        for mode, by_name in times.items()
    }


def median(values: list[float]) -> float:
    """Return the middle one."""
    return statistics.median(values)


if __name__ == "__main__":
    main()

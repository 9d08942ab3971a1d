"""Makes the embedded data, "spoken scenes": raw media in folders, such as a user would bring to `prepare`."""

import json
import multiprocessing
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from datamodules.preparation.speech import SAMPLING_RATE, Speaker
from stages.demo.clips import RATES, write_clip
from stages.demo.narration import narrate, record
from stages.demo.plan import Item, Plan, generator, make_plan
from stages.demo.scenes import draw_scene
from stages.demo.splits import Split, make_splits

VERSION = 3
MADE = "made.json"
"""The file at the root that says how a finished tree was made."""
ITEMS_PER_JOB = 200


def make(out: Path, seed: int = 0, scale: float = 1.0, num_workers: int = 0) -> None:
    """Make the embedded data: spoken scenes of handwritten digits, in folders of raw media.

    The same seed gives the same files, whatever the number of workers. A finished tree is left as it is.

    Args:
        out: The folder to make.
        seed: Decides everything that is random, the split into train and test included.
        scale: How many times the usual number of samples.
        num_workers: Processes that draw and speak; 0 is one per core, 8 at most.

    Raises:
        ValueError: `scale` is not positive, a number is negative, or `out` holds something else than this data.
        SpeechError: there is no espeak-ng.
    """
    out = Path(out)
    if not 0 < scale <= 100 or seed < 0 or num_workers < 0:
        raise ValueError(
            f"Found scale {scale}, seed {seed} and num_workers {num_workers}; "
            "expected a scale above 0 and up to 100, the others 0 or more."
        )
    if is_made(out, {"version": VERSION, "seed": seed, "scale": scale}):
        return
    splits = make_splits(seed)
    plan = make_plan(splits, seed, scale)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        write_media(unfinished, plan, splits, seed, num_workers or min(os.cpu_count() or 1, 8))
        write_text(unfinished, plan)
        write_json(unfinished / MADE, describe(splits, seed, scale))
        unfinished.chmod(0o755)  # mkdtemp makes it private
        unfinished.replace(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def is_made(out: Path, asked: dict[str, float]) -> bool:
    """Whether `out` holds the very data that is asked for; false if there is nothing.

    Raises:
        ValueError: it holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    found = json.loads((out / MADE).read_text()) if (out / MADE).is_file() else {}
    if {key: found.get(key) for key in asked} == asked:
        return True
    made = {key: found[key] for key in asked if key in found} or f"no {MADE}"
    raise ValueError(f"Found {made} in {out}; expected {asked}. Remove that folder, or name another.")


def describe(splits: dict[str, Split], seed: int, scale: float) -> dict:
    """Return how the data was made and what is held out."""
    return {
        "version": VERSION,
        "seed": seed,
        "scale": scale,
        "held_out": [str(thing) for thing in splits["test"].held_out],
        "scans": {name: sum(map(len, split.scans.values())) for name, split in splits.items()},
        "voices": {name: split.voices for name, split in splits.items()},
    }


def write_media(root: Path, plan: Plan, splits: dict[str, Split], seed: int, num_workers: int) -> None:
    """Draw and speak all items and clips in worker processes."""
    from tqdm import tqdm

    for folder in sorted({(root / item.stem).parent for item in plan.items} | {root / "videos"}):
        folder.mkdir(parents=True, exist_ok=True)
    jobs = [partial(write_clips, root, splits["train"], seed, [index]) for index in range(plan.num_clips)]
    for start in range(0, len(plan.items), ITEMS_PER_JOB):
        jobs.append(partial(write_items, root, splits, seed, plan.items[start : start + ITEMS_PER_JOB]))
    # Not forked: the caller may hold threads.
    with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            for future in tqdm(futures, desc="spoken scenes", unit="job", disable=None):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_items(root: Path, splits: dict[str, Split], seed: int, items: list[Item]) -> None:
    """Draw, speak and write items."""
    with Speaker() as speaker:
        for item in items:
            write_item(root / item.stem, item, splits[item.split], seed, speaker)


def write_item(stem: Path, item: Item, split: Split, seed: int, speaker: Speaker) -> None:
    """Write the files of one item."""
    import soundfile

    if item.image:
        rng = generator(seed, item.stem + item.image)
        picture = draw_scene(item.scene, split.sample_scans(item.scene, rng), rng)
        picture.save(stem.with_suffix(item.image), quality=92, subsampling=0)
    if item.said:
        rng = generator(seed, item.stem + ".flac")
        waveform = record(narrate(item.said, str(rng.choice(split.voices)), speaker, rng), rng)
        soundfile.write(stem.with_suffix(".flac"), waveform, SAMPLING_RATE, subtype="PCM_16")
    if item.text:
        stem.with_suffix(".txt").write_text(item.text + "\n", encoding="utf-8")


def write_clips(root: Path, split: Split, seed: int, indices: list[int]) -> None:
    """Write narrated clips with their subtitles."""
    with Speaker() as speaker:
        for index in indices:
            stem = f"videos/clip_{index:02}"
            write_clip(root / stem, split, generator(seed, stem), speaker, RATES[index % len(RATES)])


def write_text(root: Path, plan: Plan) -> None:
    """Write unpaired text and instructions, and place the media that these are about beside them."""
    for name, lines in plan.lines.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, records in plan.instructions.items():
        (root / name).parent.mkdir(exist_ok=True)
        write_json(root / name, records)
    for name, source in plan.links.items():
        (root / name).parent.mkdir(exist_ok=True)
        link(root / source, root / name)


def link(source: Path, target: Path) -> None:
    """Make one file appear under a second name, by a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def write_json(path: Path, value: dict | list) -> None:
    """Write readable JSON."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")

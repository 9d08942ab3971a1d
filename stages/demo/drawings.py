"""drawings: pictures of one digit with their captions, as many as a model that draws needs to tell digits apart."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from stages.demo.plan import generator
from stages.demo.scenes import SIZE, Scene, Thing, draw_things
from stages.demo.splits import Split, make_splits
from stages.demo.spoken_scenes import MADE, is_made, write_json


def drawings(out: Path, number: int = 8000, seed: int = 0) -> None:
    """Draw single digits on a plain ground, each with its caption beside it: `000123.png` and `000123.txt`.

    They are of training's handwriting and of the combinations of colour and digit that training has, every
    combination as often as any other, give or take one. The same seed gives the same files. A finished folder is
    left as it is.

    Args:
        out: The folder to make.
        number: How many.
        seed: Of the embedded data (`python -m stages.demo data`), which decides what training may see.

    Raises:
        ValueError: `number` or `seed` is out of range, or `out` holds something else than these drawings.
    """
    if not 1 <= number <= 1_000_000 or seed < 0:
        raise ValueError(f"Found number {number} and seed {seed}; expected from 1 to 1000000, and 0 or more.")
    made = {"version": 1, "seed": seed, "drawings": number}
    if is_made(out, made):
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        split = make_splits(seed)["train"]
        for index in range(number):
            write_drawing(unfinished / f"{index:06}", split, index, seed)
        write_json(unfinished / MADE, made)
        unfinished.chmod(0o755)  # mkdtemp makes it private
        unfinished.replace(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_drawing(stem: Path, split: Split, index: int, seed: int) -> None:
    """Write one picture, which its index decides, and its caption."""
    thing = split.things[index % len(split.things)]
    picture = draw_thing(thing, split, generator(seed, f"drawings/{split.name}/{index:06}"))
    picture.save(stem.with_suffix(".png"))
    stem.with_suffix(".txt").write_text(Scene((thing,)).caption + "\n", encoding="utf-8")


def draw_thing(thing: Thing, split: Split, rng: np.random.Generator) -> Image.Image:
    """Draw one thing by handwriting of a split: in the middle, give or take a pixel, on a dark ground of one colour.

    A textured ground and a free place, as scenes have, leave most of a picture's symbols to chance: what a caption says
    of the digit is then too little of the loss to be learned in minutes.
    """
    scene = Scene((thing,))
    ground = np.broadcast_to(rng.uniform(20, 60, 3), (SIZE, SIZE, 3))
    places = SIZE / 2 + rng.uniform(-1, 1, (1, 2)), rng.uniform(22, 26, 1)
    return draw_things(ground, scene, split.sample_scans(scene, rng), places, rng)

"""Made photographs with captions, as shards: smooth colours, edges and grain, about 330 pixels, JPEG."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.shards.writer import write_shards

SIZES = ((330, 330), (440, 330), (330, 440), (495, 330), (352, 330))
VOCABULARY = (
    "a the of on in with and at near under small large old young red green blue white black bright dark man woman "
    "child dog cat horse bird boat train bus car bicycle street house kitchen table window garden beach mountain "
    "river forest snow rain sky cloud morning evening photograph painting drawing standing sitting running walking "
    "holding looking eating playing crowded empty wooden metal glass flowers fruit bread coffee book camera umbrella "
    "skateboard surfboard traffic light clock tower bridge market festival concert stadium airport harbour vintage "
    "panoramic close-up handmade picturesque weathered colourful photographer's 1920s no.7 shutterstock, getty-images"
)
WORDS = VOCABULARY.split()


def photo(rng: np.random.Generator) -> bytes:
    """Return a JPEG of quality 85, about 30 kB."""
    width, height = SIZES[int(rng.integers(len(SIZES)))]
    rough = rng.integers(0, 256, (height // 40 + 1, width // 40 + 1, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC), np.float32)
    pixels = pixels.copy()
    for _ in range(12):  # things with edges
        top, left = int(rng.integers(height - 20)), int(rng.integers(width - 20))
        bottom, right = top + int(rng.integers(10, 120)), left + int(rng.integers(10, 120))
        pixels[top:bottom, left:right] = 0.5 * pixels[top:bottom, left:right] + rng.uniform(0, 128, 3)
    pixels += rng.normal(0, 4, (height, width, 1))  # grain
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def caption(rng: np.random.Generator) -> str:
    """Return 6 to 20 words, few of them often and many seldom, as in language."""
    share = 1.0 / np.arange(1, len(WORDS) + 1)
    return " ".join(rng.choice(WORDS, size=int(rng.integers(6, 21)), p=share / share.sum()))


def samples(count: int, seed: int) -> Iterator[dict[str, object]]:
    """Yield what `write_shards` takes, the same for the same seed."""
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        yield {"__key__": f"{number:06d}", "jpg": photo(rng), "txt": caption(rng).encode()}


def make_shards(folder: Path, count: int, seed: int) -> Path:
    """Write `count` samples as eight shards."""
    write_shards(samples(count, seed), folder, max_samples=-(-count // 8))
    return folder

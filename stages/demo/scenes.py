"""Scenes of coloured handwritten digits: what they are, how a caption says it, how they are drawn."""

import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = {
    "red": (235, 50, 45),
    "green": (40, 205, 70),
    "blue": (70, 125, 255),
    "yellow": (250, 225, 50),
    "purple": (200, 70, 235),
    "white": (245, 245, 245),
}
RELATIONS = ("left of", "above")
NUM_THINGS = {1: 0.2, 2: 0.5, 3: 0.3}
"""How often a scene holds so many digits."""
SIZE = 64
"""Height and width of a picture, pixels."""


@dataclass(frozen=True, order=True)
class Thing:
    """One coloured digit, both in words."""

    colour: str
    digit: str

    def __str__(self) -> str:
        return f"{self.colour} {self.digit}"


THINGS = tuple(Thing(colour, digit) for colour in COLOURS for digit in DIGITS)


@dataclass(frozen=True)
class Scene:
    """One to three different things in a row, from left to right, or in a column, from above."""

    things: tuple[Thing, ...]
    relation: str = ""
    """One of RELATIONS; empty if there is one thing."""

    @property
    def caption(self) -> str:
        """The one sentence that says what is in the scene, and nothing else does."""
        return f" {self.relation} ".join(f"a {thing}" for thing in self.things)


def parse(caption: str) -> Scene:
    """Return the scene that a caption describes: the inverse of `Scene.caption`.

    Raises:
        ValueError: the sentence is not such a caption.
    """
    relation = next((relation for relation in RELATIONS if f" {relation} " in caption), "")
    parts = caption.split(f" {relation} ") if relation else [caption]
    matches = [re.fullmatch(r"a (\w+) (\w+)", part) for part in parts]
    things = tuple(Thing(*match.groups()) for match in matches if match)
    if len(things) < len(parts) or not set(things) <= set(THINGS):
        raise ValueError(f"Found {caption!r}; expected a caption such as 'a red seven above a blue two'.")
    return Scene(things, relation)


def draw_scene(scene: Scene, scans: list[np.ndarray], rng: np.random.Generator) -> Image.Image:
    """Draw a scene on a dark textured ground, one scan (8, 8) in [0, 1] for each of its things."""
    return draw_things(draw_ground(rng), scene, scans, place(scene, rng), rng)


def draw_things(
    ground: np.ndarray,
    scene: Scene,
    scans: list[np.ndarray],
    places: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> Image.Image:
    """Draw a scene's things on a ground (64, 64, 3), at places as `place` returns them."""
    canvas = ground
    for thing, scan, (x, y), size in zip(scene.things, scans, *places, strict=True):
        ink = np.array(COLOURS[thing.colour]) + rng.uniform(-10, 10, 3)
        opacity = handwriting(scan, x, y, size, rng)[..., None]
        canvas = canvas * (1 - opacity) + ink * opacity
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))


def place(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the centres (things, 2) as x and y, and sizes (things,), in pixels.

    Neighbours are further apart along the relation's axis than any two are across it.
    """
    count = len(scene.things)
    sizes = rng.uniform(18, 20.5 if count == 3 else 26, count)
    if count == 1:
        return rng.uniform(14, SIZE - 14, (1, 2)), sizes
    spacing = SIZE / count
    along = spacing * (np.arange(count) + 0.5) + rng.uniform(-1, 1, count) * (3 if count == 2 else 1)
    across = rng.uniform(18, SIZE - 18) + rng.uniform(-4, 4, count)
    return np.stack((along, across) if scene.relation == "left of" else (across, along), axis=1), sizes


def draw_ground(rng: np.random.Generator) -> np.ndarray:
    """Return a dark ground (64, 64, 3) in [0, 255]: a tint with blotches and grain."""
    tint = rng.uniform(20, 60, 3)
    blotches = Image.fromarray(rng.normal(0, 12, (6, 6)).astype(np.float32))
    blotches = np.asarray(blotches.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return tint + blotches[..., None] + rng.normal(0, 5, (SIZE, SIZE, 1))


def handwriting(scan: np.ndarray, x: float, y: float, size: float, rng: np.random.Generator) -> np.ndarray:
    """Return the opacity (64, 64) in [0, 1] of a scan (8, 8), a little turned and slanted.

    Its middle lies at (x, y) and it is `size` pixels wide.
    """
    angle, slant, stretch = rng.uniform((-0.15, -0.15, 0.92), (0.15, 0.15, 1.08))
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    to_canvas = turned @ [[1, slant], [0, stretch]] * size / 8
    to_scan = np.linalg.inv(to_canvas)
    padded = np.pad(scan.astype(np.float32), 2)
    shift = np.full(2, padded.shape[0] / 2) - to_scan @ (x, y)
    coefficients = [*to_scan[0], shift[0], *to_scan[1], shift[1]]
    ink = Image.fromarray(padded).transform(
        (SIZE, SIZE), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
    )
    return np.clip(1.3 * np.asarray(ink), 0, 1)

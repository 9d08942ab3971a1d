"""What train, val and test may use: handwriting, voices and combinations of colour and digit."""

from dataclasses import dataclass

import numpy as np

from stages.demo.scenes import COLOURS, DIGITS, NUM_THINGS, RELATIONS, THINGS, Scene, Thing

SHARES = {"train": 0.76, "val": 0.06, "test": 0.18}
"""How much of the handwriting each split has."""

ACCENTS = (
    "en",
    "en-us",
    "en-us-nyc",
    "en-029",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
)
VARIANTS = {
    "train": (
        *("m1", "m2", "m3", "m4", "m5", "m6", "f1", "f2", "f3", "Alex", "Alicia", "Andrea", "Andy", "Annie"),
        *("belinda", "Denis", "ed", "Gene", "grandma", "Lee", "linda", "max", "Michael", "rob", "robert"),
        *("Mike", "paul", "quincy", "shelby", "steph", "travis", "victor"),
    ),
    "val": ("f5", "pedro", "edward"),
    "test": ("f4", "m7", "m8", "aunty", "Mario", "norbert", "sandro"),
}
"""Voices are espeak-ng's: every accent speaks in every split, by other variants. None is the plain voice that
subtitles are aligned against."""


@dataclass(frozen=True)
class Split:
    """What one split draws from."""

    name: str
    scans: dict[str, np.ndarray]
    """Digit to its handwriting (scans, 8, 8), in [0, 1]."""
    voices: tuple[str, ...]
    things: tuple[Thing, ...]
    held_out: tuple[Thing, ...] = ()
    """Each scene holds one of these, if there are any."""

    def sample_scene(self, rng: np.random.Generator) -> Scene:
        """Draw a scene of different things."""
        count = rng.choice(list(NUM_THINGS), p=list(NUM_THINGS.values()))
        things = list(choose(self.held_out, rng, 1)) if self.held_out else []
        others = [thing for thing in self.things if thing not in things]
        things += choose(others, rng, count - len(things))
        rng.shuffle(things)
        return Scene(tuple(things), str(rng.choice(RELATIONS)) if count > 1 else "")

    def sample_scans(self, scene: Scene, rng: np.random.Generator) -> list[np.ndarray]:
        """Draw handwriting for each thing of a scene."""
        return [rng.choice(self.scans[thing.digit]) for thing in scene.things]


def choose(options: tuple | list, rng: np.random.Generator, count: int) -> list:
    """Draw `count` different options."""
    return [options[index] for index in rng.choice(len(options), count, replace=False)]


def hold_out(rng: np.random.Generator) -> tuple[Thing, ...]:
    """Draw the combinations that train never sees: each digit once, each colour once or twice."""
    colours = rng.permutation(list(COLOURS))
    return tuple(Thing(str(colours[index % len(colours)]), digit) for index, digit in enumerate(DIGITS))


def make_splits(seed: int) -> dict[str, Split]:
    """Deal handwriting, voices and combinations to train, val and test."""
    from sklearn.datasets import load_digits

    rng = np.random.default_rng([seed, *b"splits"])
    held_out = hold_out(rng)
    common = tuple(thing for thing in THINGS if thing not in held_out)
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8).astype(np.float32) / 16
    dealt: dict[str, dict[str, np.ndarray]] = {name: {} for name in SHARES}
    bounds = np.cumsum(list(SHARES.values()))[:-1]
    for label, digit in enumerate(DIGITS):
        scans = rng.permutation(images[labels == label])
        for name, part in zip(SHARES, np.split(scans, (bounds * len(scans)).astype(int)), strict=True):
            dealt[name][digit] = part
    return {
        "train": Split("train", dealt["train"], voices_of("train"), common),
        "val": Split("val", dealt["val"], voices_of("val"), common),
        "test": Split("test", dealt["test"], voices_of("test"), THINGS, held_out),
    }


def voices_of(name: str) -> tuple[str, ...]:
    """Return the voices of a split: each of its variants in every accent."""
    return tuple(f"{accent}+{variant}" for accent in ACCENTS for variant in VARIANTS[name])

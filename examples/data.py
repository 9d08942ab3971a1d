"""Makes the data of an example, in the layouts that prepare reads: `python -m examples.data imu runs/examples/imu/raw`.

Side-car files in `train/` and `test/`, questions in LLaVA's JSON, and lines of text to learn a tokenizer from.
What is written depends on the seed alone.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

SHAPES = ("sphere", "box", "cone", "cylinder", "ring")
HEIGHTS = {"flat": 0.4, "regular": 1.0, "tall": 2.5}
ACTIVITIES = {"resting": (0.0, 0.0), "walking": (1.8, 3.0), "running": (2.7, 9.0), "cycling": (1.2, 1.0)}
"""Steps or turns a second, and how hard they are in m/s²."""
WORN = ("on the wrist", "on the hip", "in the hand")
GENRES = ("crime", "fantasy", "poetry", "travel", "history", "cooking", "romance", "science")
ITEMS_OF_GENRE = 30


class Made(NamedTuple):
    """One sample: suffix -> bytes, and questions about it with their answers."""

    members: dict[str, bytes]
    questions: dict[str, str]


def point_cloud(rng: np.random.Generator) -> Made:
    """Draw the surface of a body that stands upright and is turned about its axis, seen with noise."""
    shape, height = str(rng.choice(SHAPES)), str(rng.choice(list(HEIGHTS)))
    count = int(rng.integers(200, 400))
    turn, along = rng.uniform(0, 2 * math.pi, count), rng.uniform(-1, 1, count)
    radius = {
        "sphere": np.sqrt(1 - along**2),
        "cone": (1 - along) / 2,
        "cylinder": np.ones(count),
        "ring": 1 + 0.2 * np.cos(math.pi * along),
        "box": 1 / np.maximum(np.abs(np.cos(turn)), np.abs(np.sin(turn))),
    }[shape]
    if shape == "ring":
        along = 0.2 * np.sin(math.pi * along)
    turn = turn + rng.uniform(0, 2 * math.pi)
    body = np.stack([radius * np.cos(turn), radius * np.sin(turn), along * HEIGHTS[height]], 1)
    points = rng.uniform(1, 20) * (body + rng.normal(0, 0.03, (count, 3))) + rng.uniform(-50, 50, 3)
    data = np.hstack([points, rng.uniform(0, 1, (count, 1))]).astype("<f4").tobytes()
    questions = {"What shape is it?": f"a {shape}", "How high is it?": height}
    return Made({"bin": data, "txt": f"a {height} {shape}".encode()}, questions)


def imu(rng: np.random.Generator) -> Made:
    """Draw a few seconds of motion at 40 to 100 Hz, by whatever way up the sensor is worn."""
    activity, worn = str(rng.choice(list(ACTIVITIES))), str(rng.choice(WORN))
    rate, strength = ACTIVITIES[activity]
    times = np.arange(0, rng.uniform(4, 7), 1 / rng.uniform(40, 100))
    phase = 2 * math.pi * rate * rng.uniform(0.9, 1.1) * times + rng.uniform(0, 2 * math.pi)
    swing = {"on the wrist": 1.5, "on the hip": 0.3, "in the hand": 0.8}[worn]
    tremor = {"on the wrist": 0.1, "on the hip": 0.05, "in the hand": 0.8}[worn]
    table = rng.normal(0, tremor, (len(times), 7))
    table[:, 3] += 9.81 + strength * np.sin(phase) + strength / 3 * np.sin(2 * phase)
    table[:, 1] += strength / 2 * np.sin(phase / 2)
    table[:, 4] += swing * rate * np.cos(phase / 2)
    table[:, 0] = times
    lines = ["t,ax,ay,az,gx,gy,gz", *(",".join(f"{value:.3f}" for value in row) for row in table)]
    questions = {"What is the wearer doing?": activity, "Where is it worn?": worn}
    return Made({"csv": "\n".join(lines).encode(), "txt": f"{activity}, worn {worn}".encode()}, questions)


def user_history(rng: np.random.Generator) -> Made:
    """Draw a reader who mostly takes one genre, its popular books more often, and the book that was taken next."""
    genre = int(rng.integers(len(GENRES)))
    popularity = 1 / (5 + np.arange(ITEMS_OF_GENRE))
    shares = np.full((len(GENRES), 1), 0.2 / len(GENRES))
    shares[genre] += 0.8
    chances = (shares * popularity / popularity.sum()).ravel()
    taken = 1 + rng.choice(len(chances), int(rng.integers(6, 16)), replace=False, p=chances)
    members = {"history": " ".join(map(str, taken[:-1])).encode(), "item": str(taken[-1]).encode()}
    return Made(members, {"What does this reader like?": GENRES[genre]})


EXAMPLES: dict[str, Callable[[np.random.Generator], Made]] = {
    "point_cloud": point_cloud,
    "imu": imu,
    "user_history": user_history,
}


def records(example: str, split: str, made: dict[str, Made]) -> Iterator[dict]:
    """Yield one question about each sample, in LLaVA's layout."""
    for number, (name, sample) in enumerate(made.items()):
        question, answer = list(sample.questions.items())[number % len(sample.questions)]
        turns = [
            {"from": "human", "value": f"<{example}>\n{question}"},
            {"from": "gpt", "value": answer},
        ]
        file = f"{split}/{name}.{next(iter(sample.members))}"
        yield {"id": f"{split}-{name}", "task": question, example: file, "conversations": turns}


def write(example: str, out: Path, train: int, test: int, seed: int) -> None:
    """Write the data of one example."""
    lines: list[str] = []
    for split, count in (("train", train), ("test", test)):
        rng = np.random.default_rng([seed, *split.encode()])
        made = {f"{number:06d}": EXAMPLES[example](rng) for number in range(count)}
        (out / split).mkdir(parents=True, exist_ok=True)
        for name, sample in made.items():
            for suffix, data in sample.members.items():
                (out / split / f"{name}.{suffix}").write_bytes(data)
        asked = list(records(example, split, made))
        (out / f"{split}.json").write_text(json.dumps(asked), encoding="utf-8")
        if split == "train":
            lines += [
                turn["value"].partition("\n")[2] or turn["value"]
                for one in asked
                for turn in one["conversations"]
            ]
            lines += [sample.members["txt"].decode() for sample in made.values() if "txt" in sample.members]
    (out / "lines.txt").write_text("\n".join(dict.fromkeys(lines)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("example", choices=EXAMPLES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=3000, help="samples to learn from")
    parser.add_argument("--test", type=int, default=300, help="samples held out")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(arguments.example, arguments.out, arguments.train, arguments.test, arguments.seed)
    print(arguments.out)

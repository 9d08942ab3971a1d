"""What the embedded data consists of, item by item, before anything is drawn or spoken."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from stages.demo.questions import MEDIA, PHRASINGS, answer, fits
from stages.demo.scenes import COLOURS, DIGITS, Scene
from stages.demo.splits import Split, choose

NUM_SCENES = {"train": 3000, "val": 100, "test": 200}
NUM_DIGITS = {"train": 4000, "test": 500}
NUM_WORDS = {"train": 3000, "test": 300}
NUM_SPOKEN_DIGITS = {"test": 300}
NUM_LINES = {"train": 20_000, "val": 500}
NUM_INSTRUCTIONS = {"train": 7000, "test": 350}
NUM_CLIPS = 6

WORDS = (*DIGITS, *COLOURS, "left", "above")
CAPTION_SHARE = 0.65
"""How much of the unpaired text is captions; the rest is questions with their answers."""


@dataclass(frozen=True)
class Item:
    """One picture, sound or caption to be, or several of one scene."""

    stem: str
    """Path of its files below the root, without suffix; with the seed it decides all that is random about it."""
    split: str
    scene: Scene | None = None
    """What is drawn."""
    image: str = ""
    """Suffix of the picture; empty for none."""
    text: str = ""
    """The caption written; empty for none."""
    said: str = ""
    """What is spoken; empty for nothing."""


@dataclass
class Plan:
    """All that will be written."""

    items: list[Item] = field(default_factory=list)
    lines: dict[str, list[str]] = field(default_factory=dict)
    """Text file to its lines."""
    instructions: dict[str, list[dict]] = field(default_factory=dict)
    """JSON file to its records."""
    links: dict[str, str] = field(default_factory=dict)
    """Media file of the instructions to the file that it is the same as."""
    num_clips: int = 0


def generator(seed: int, name: str) -> np.random.Generator:
    """Return the random numbers that belong to a name alone, whatever else is made."""
    return np.random.default_rng([seed, *name.encode()])


def make_plan(splits: dict[str, Split], seed: int, scale: float) -> Plan:
    """Plan the data at `scale` times its usual counts, but enough for every kind of sample."""
    plan = Plan(num_clips=scaled(NUM_CLIPS, scale))
    for name, split in splits.items():
        plan.items += plan_scenes(split, scaled(NUM_SCENES[name], scale, least=20), seed)
    for name, number in NUM_DIGITS.items():
        plan.items += plan_digits(splits[name], scaled(number / len(DIGITS), scale), seed)
    for name, number in NUM_WORDS.items():
        plan.items += plan_words(name, scaled(number / len(WORDS), scale))
    for name, number in NUM_SPOKEN_DIGITS.items():
        plan.items += plan_spoken_digits(splits[name], scaled(number / len(DIGITS), scale), seed)
    plan_lines(plan, splits["train"], scale, seed)
    for name, number in NUM_INSTRUCTIONS.items():
        plan_instructions(plan, splits[name], scaled(number / len(PHRASINGS), scale), seed)
    return plan


def scaled(number: float, scale: float, least: int = 1) -> int:
    """Return a count at a scale."""
    return max(least, round(number * scale))


def plan_scenes(split: Split, number: int, seed: int) -> Iterator[Item]:
    """Scenes with caption and speech; no two test scenes alike, and a part of train lacks one of the three."""
    seen: set[Scene] = set()
    for index in range(number):
        stem = f"scenes/{split.name}/{index:06}"
        rng = generator(seed, stem + " scene")
        scene = split.sample_scene(rng)
        while split.name != "train" and scene in seen:
            scene = split.sample_scene(rng)
        seen.add(scene)
        item = Item(stem, split.name, scene, image=".jpg", text=scene.caption, said=scene.caption)
        lack = rng.random() if split.name == "train" else 1
        if lack < 0.12:
            item = replace(item, image="")
        elif lack < 0.24:
            item = replace(item, said="")
        elif lack < 0.29:
            item = replace(item, text="")
        yield item


def plan_digits(split: Split, number: int, seed: int) -> Iterator[Item]:
    """Pictures of one digit, `number` of each, by class."""
    for digit in DIGITS:
        things = [thing for thing in split.things if thing.digit == digit]
        for index in range(number):
            stem = f"digits/{split.name}/{digit}/{index:05}"
            thing = things[generator(seed, stem + " scene").integers(len(things))]
            yield Item(stem, split.name, Scene((thing,)), image=".png")


def plan_words(split_name: str, number: int) -> Iterator[Item]:
    """Single words, `number` of each, by class."""
    for word in WORDS:
        for index in range(number):
            yield Item(f"words/{split_name}/{word}/{index:05}", split_name, said=word)


def plan_spoken_digits(split: Split, number: int, seed: int) -> Iterator[Item]:
    """Captions of one digit spoken, `number` of each, by class of the digit."""
    for digit in DIGITS:
        things = [thing for thing in split.things if thing.digit == digit]
        for index in range(number):
            stem = f"spoken_digits/{split.name}/{digit}/{index:05}"
            scene = Scene((things[generator(seed, stem + " scene").integers(len(things))],))
            yield Item(stem, split.name, scene, said=scene.caption)


def plan_lines(plan: Plan, split: Split, scale: float, seed: int) -> None:
    """Unpaired sentences, captions and questions with answers; those of val are none of train's."""
    known: set[str] = set()
    for name, number in NUM_LINES.items():
        rng = generator(seed, f"text/{name}")
        lines: list[str] = []
        while len(lines) < scaled(number, scale):
            line = write_line(split, rng)
            if name == "train" or line not in known:
                lines.append(line)
        known.update(lines)
        plan.lines[f"text/{name}.txt"] = lines


def write_line(split: Split, rng: np.random.Generator) -> str:
    """Return a caption, or a question with its answer."""
    scene = split.sample_scene(rng)
    if rng.random() < CAPTION_SHARE:
        return scene.caption
    task = str(rng.choice([task for task in PHRASINGS if fits(task, scene)]))
    spoken = scene if rng.random() < 0.5 else split.sample_scene(rng)
    return f"{rng.choice(PHRASINGS[task])} {answer(task, scene, spoken)}"


def plan_instructions(plan: Plan, split: Split, number: int, seed: int) -> None:
    """`number` questions of each kind, about media that are there already or, for some mismatches, spoken anew."""
    records = []
    for task in PHRASINGS:
        rng = generator(seed, f"instructions/{split.name}/{task}")
        fitting = [item for item in plan.items if item.split == split.name and suits(task, item)]
        for index, item in enumerate(draw_items(fitting, number, rng)):
            identifier = f"{split.name}-{task}-{index:05}"
            heard = item
            if task == "match" and index % 2:
                heard = mismatch(item, index // 2 % 3, identifier, fitting, split, rng)
                if heard not in fitting:
                    plan.items.append(heard)
            records.append(make_record(plan, identifier, task, item, heard, rng))
    generator(seed, f"instructions/{split.name}").shuffle(records)
    plan.instructions[f"instructions/{split.name}.json"] = records


def suits(task: str, item: Item) -> bool:
    """Whether a question of this kind can be asked about an item's media; descriptions are of captioned scenes."""
    if item.scene is None or not fits(task, item.scene) or (task == "describe" and not item.text):
        return False
    return all({"image": item.image, "audio": item.said}[kind] for kind in MEDIA[task])


def draw_items(items: list[Item], number: int, rng: np.random.Generator) -> list[Item]:
    """Draw `number` items, each as often as any other, give or take one."""
    order = np.concatenate([rng.permutation(len(items)) for _ in range(-(-number // len(items)))])
    return [items[index] for index in order[:number]]


def mismatch(
    shown: Item, kind: int, name: str, items: list[Item], split: Split, rng: np.random.Generator
) -> Item:
    """Return speech of another scene: of any other (0), or with another digit (1) or colour (2) in one place."""
    if kind == 0:
        others = [item for item in items if item.scene != shown.scene]
        return others[rng.integers(len(others))]
    things = list(shown.scene.things)
    place = rng.integers(len(things))
    changed = (
        [replace(things[place], digit=digit) for digit in DIGITS]
        if kind == 1
        else [replace(things[place], colour=colour) for colour in COLOURS]
    )
    things[place] = choose(
        [thing for thing in changed if thing in split.things and thing not in things], rng, 1
    )[0]
    scene = replace(shown.scene, things=tuple(things))
    return Item(f"instructions/media/{name}", split.name, scene, said=scene.caption)


def make_record(
    plan: Plan, identifier: str, task: str, shown: Item, heard: Item, rng: np.random.Generator
) -> dict:
    """Return a record in LLaVA's layout, and note where its media come from."""
    sources = {"image": shown.stem + shown.image, "audio": heard.stem + ".flac"}
    media = {kind: place_media(plan, sources[kind]) for kind in MEDIA[task]}
    tags = "".join(f"<{kind}>\n" for kind in media)
    about = {"image": shown.scene, "audio": heard.scene}
    turns = []
    for kind in (task, *(follow_ups(task, about, rng) if shown.split == "train" else ())):
        turns.append({"from": "human", "value": tags + str(rng.choice(PHRASINGS[kind]))})
        turns.append({"from": "gpt", "value": answer(kind, about[MEDIA[kind][0]], heard.scene)})
        tags = ""
    return {"id": identifier, "task": task, **media, "conversations": turns}


def follow_ups(task: str, about: dict[str, Scene], rng: np.random.Generator) -> list[str]:
    """Return the other kinds of question that the sound of one answers too, in any order.

    Pictures are asked about once: an answer could be copied from the one before, and nothing be learned from looking.
    """
    others = [
        kind
        for kind in PHRASINGS
        if kind != task
        and MEDIA[kind] == ("audio",)
        and "audio" in MEDIA[task]
        and fits(kind, about["audio"])
    ]
    return [others[index] for index in rng.permutation(len(others))]


def place_media(plan: Plan, source: str) -> str:
    """Return the path, relative to the instructions, under which a media file is found there."""
    folder = "instructions/"
    if not source.startswith(folder):
        plan.links[f"{folder}media/{source.replace('/', '-')}"] = source
        return f"media/{source.replace('/', '-')}"
    return source.removeprefix(folder)

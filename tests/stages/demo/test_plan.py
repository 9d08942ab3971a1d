"""What is planned is honest: held-out things stay out of train, and every answer follows from the media."""

import re
from collections import Counter
from pathlib import PurePosixPath

import pytest

from stages.demo.plan import make_plan
from stages.demo.questions import PHRASINGS
from stages.demo.scenes import DIGITS, parse
from stages.demo.splits import make_splits


@pytest.fixture(scope="module")
def splits():
    return make_splits(seed=0)


@pytest.fixture(scope="module")
def plan(splits):
    return make_plan(splits, seed=0, scale=0.1)


def caption_of(plan, path):
    """Return what is in the media file of a record, in words."""
    name = f"instructions/{path}"
    stem = str(PurePosixPath(plan.links.get(name, name)).with_suffix(""))
    return next(item.scene.caption for item in plan.items if item.stem == stem)


def test_held_out_combinations_never_occur_in_train_or_val(plan, splits):
    held_out = re.compile("|".join(map(str, splits["test"].held_out)))
    lines = [line for file in plan.lines.values() for line in file]
    spoken_and_drawn = [
        sentence
        for item in plan.items
        if item.split != "test"
        for sentence in (item.text, item.said, item.scene.caption if item.scene else "")
    ]
    turns = [
        turn["value"]
        for record in plan.instructions["instructions/train.json"]
        for turn in record["conversations"]
    ]
    assert not [sentence for sentence in lines + spoken_and_drawn + turns if held_out.search(sentence)]


def test_every_test_scene_holds_a_held_out_combination_and_no_two_are_alike(plan, splits):
    captions = [item.text for item in plan.items if item.stem.startswith("scenes/test")]
    assert len(captions) == len(set(captions)) == 20
    assert all(set(parse(caption).things) & set(splits["test"].held_out) for caption in captions)


def test_only_train_lacks_modalities_and_never_two(plan):
    lacking = {"train": Counter(), "val": Counter(), "test": Counter()}
    for item in plan.items:
        if item.stem.startswith("scenes/"):
            missing = [kind for kind in ("image", "said", "text") if not getattr(item, kind)]
            assert len(missing) <= 1
            lacking[item.split].update(missing)
    assert not lacking["val"] and not lacking["test"]
    assert (
        15 < lacking["train"]["image"] < 60
        and 15 < lacking["train"]["said"] < 60
        and lacking["train"]["text"]
    )


def test_val_text_is_none_of_train(plan):
    assert not set(plan.lines["text/val.txt"]) & set(plan.lines["text/train.txt"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_answer_follows_from_the_media(plan, split):
    records = plan.instructions[f"instructions/{split}.json"]
    assert Counter(record["task"] for record in records) == dict.fromkeys(
        PHRASINGS, len(records) // len(PHRASINGS)
    )
    for record in records:
        captions = {kind: caption_of(plan, record[kind]) for kind in ("image", "audio") if kind in record}
        said = [turn["value"] for turn in record["conversations"]]
        kinds = [kind_of(question) for question in said[::2]]
        assert kinds[0] == record["task"]
        assert len(set(kinds)) == len(kinds)
        for kind, answer in zip(kinds, said[1::2], strict=True):
            check_answer(kind, answer, captions)


def kind_of(question):
    """The kind of question, from how it is phrased."""
    phrase = question.rsplit(">\n")[-1]
    [kind] = [kind for kind, phrasings in PHRASINGS.items() if phrase in phrasings]
    return kind


def check_answer(kind, answer, captions):
    """Work the answer out from the captions of the media alone."""
    if kind == "match":
        assert answer == ("yes" if captions["image"] == captions["audio"] else "no")
        return
    caption = captions["audio" if kind in ("repeat", "spoken_digit") else "image"]
    digits = [word for word in caption.split() if word in DIGITS]
    match kind:
        case "sum":
            assert len(digits) > 1 and int(answer) == sum(map(DIGITS.index, digits))
        case "read":
            assert "left of" in caption and answer.split() == digits
        case "describe" | "repeat":
            assert answer == caption
        case _:
            assert [answer] == digits


def test_one_question_a_record_is_tested_and_training_follows_up(plan):
    turns = {
        split: [len(r["conversations"]) for r in plan.instructions[f"instructions/{split}.json"]]
        for split in ("train", "test")
    }
    assert set(turns["test"]) == {2}
    assert max(turns["train"]) > 2


def test_half_of_the_pairs_match(plan):
    answers = Counter(
        record["conversations"][1]["value"]
        for record in plan.instructions["instructions/train.json"]
        if record["task"] == "match"
    )
    assert answers["yes"] == answers["no"] == 50


@pytest.mark.parametrize("split", ["train", "test"])
def test_instructions_are_about_media_of_their_own_split(plan, split):
    own = {item.stem for item in plan.items if item.split == split}
    for record in plan.instructions[f"instructions/{split}.json"]:
        for kind in ("image", "audio"):
            if kind in record:
                name = f"instructions/{record[kind]}"
                assert str(PurePosixPath(plan.links.get(name, name)).with_suffix("")) in own


def test_a_larger_plan_keeps_the_scenes_of_a_smaller_one(splits, plan):
    smaller = {
        item.stem: item for item in make_plan(splits, seed=0, scale=0.02).items if item.stem[:6] == "scenes"
    }
    assert smaller.items() <= {item.stem: item for item in plan.items}.items()

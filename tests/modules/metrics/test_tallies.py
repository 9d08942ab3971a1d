"""What tallies count: equal to scikit-learn and to counts by hand, whatever the batches and ranks."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from modules.bio import IGNORED, tags_of
from modules.metrics.classes import ClassTally
from modules.metrics.entities import EntityTally
from modules.metrics.numbers import NumberTally

CLASSES = ["a", "b", "c", "never"]
ENTITIES = ["PER", "LOC"]
TAGS = tags_of(ENTITIES)


def class_answers():
    said, right = torch.randint(0, 3, (2, 40), generator=torch.Generator().manual_seed(3))
    return ClassTally(CLASSES), said, right


def entity_answers():
    generator = torch.Generator().manual_seed(3)
    said, right = torch.randint(0, len(TAGS), (2, 40, 7), generator=generator)
    lengths = torch.randint(1, 8, (40, 1), generator=generator)
    return EntityTally(ENTITIES), said, right.masked_fill(torch.arange(7) >= lengths, IGNORED)


def number_answers():
    right = torch.randn(40, generator=torch.Generator().manual_seed(3)) * 10 + 1000
    return NumberTally(), right + torch.linspace(-3, 4, 40), right


ANSWERS = [class_answers, entity_answers, number_answers]


@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("size", [1, 7, 39])
def test_scores_do_not_depend_on_the_size_of_batches(answers, size):
    tally, said, right = answers()
    tally.update(said, right)
    whole = tally.scores()
    tally.reset()
    for start in range(0, 40, size):
        tally.update(said[start : start + size], right[start : start + size])
        tally.update(said[:0], right[:0])
    assert tally.scores() == whole


def count_on_a_rank(rank, store, outcome):
    """Count a share of all answers; the last rank has none."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=3)
    found = []
    for answers in ANSWERS:
        tally, said, right = answers()
        mine = slice(0, 0) if rank == 2 else slice(rank, None, 2)
        tally.update(said[mine], right[mine])
        found.append(asdict(tally.scores()))
    torch.save(found, f"{outcome}{rank}")
    dist.destroy_process_group()


def test_scores_do_not_depend_on_ranks_though_one_has_nothing(tmp_path):
    args = (str(tmp_path / "store"), str(tmp_path / "outcome"))
    mp.start_processes(count_on_a_rank, args, nprocs=3, start_method="fork")  # spawned, each would import
    expected = []
    for answers in ANSWERS:
        tally, said, right = answers()
        tally.update(said, right)
        expected.append(asdict(tally.scores()))
    for rank in range(3):
        for found, wanted in zip(torch.load(f"{args[1]}{rank}"), expected, strict=True):
            assert found.pop("figures") == pytest.approx(wanted["figures"], rel=1e-12)
            assert found == {name: value for name, value in wanted.items() if name != "figures"}


class TestClasses:
    def test_scores_are_those_of_scikit_learn(self):
        from sklearn.metrics import accuracy_score, precision_recall_fscore_support

        tally, said, right = class_answers()
        tally.update(said, right)
        scores = tally.scores()
        each = precision_recall_fscore_support(right, said, labels=range(4), zero_division=0)
        found = np.array([list(row.values())[:4] for row in scores.rows.values()]).T
        np.testing.assert_allclose(found, np.array(each), atol=1e-12)
        macro = precision_recall_fscore_support(right, said, average="macro", zero_division=0)
        assert [scores.figures[f"macro_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(
            macro[:3]
        )
        assert scores.figures["accuracy"] == pytest.approx(accuracy_score(right, said))
        assert scores.count == 40

    def test_nothing_counted_is_zero(self):
        scores = ClassTally(CLASSES).scores()
        assert scores.count == 0 and set(scores.figures.values()) == {0.0}


class TestEntities:
    def scores(self, *pairs):
        """Score sentences, each given as what is right and what was said."""
        tally = EntityTally(ENTITIES)
        for right, said in pairs:
            indices = [[TAGS.index(tag) for tag in tags.split()] for tags in (said, right)]
            tally.update(*torch.tensor(indices).unsqueeze(1))
        return tally.scores()

    def test_an_entity_counts_only_when_type_and_both_ends_are_right(self):
        scores = self.scores(
            ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC"),  # 1 PER and 1 LOC right
            ("B-PER I-PER O O", "B-PER O O O"),  # too short: missed, and one said in vain
            ("B-PER I-PER O O", "B-LOC I-LOC O O"),  # another type
            ("O O", "O B-LOC"),
        )
        assert scores.rows == {
            "PER": {"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "support": 3, "said": 2},
            "LOC": {"precision": 1 / 3, "recall": 1.0, "f1": 1 / 2, "support": 1, "said": 3},
        }
        assert scores.figures["precision"] == 2 / 5
        assert scores.figures["recall"] == 2 / 4
        assert scores.figures["f1"] == 4 / 9
        assert scores.figures["macro_f1"] == pytest.approx((2 / 5 + 1 / 2) / 2)
        assert scores.figures["word_accuracy"] == pytest.approx((4 + 3 + 2 + 1) / 14)
        assert scores.count == 4

    def test_what_lies_behind_the_last_word_is_not_looked_at(self):
        tally = EntityTally(ENTITIES)
        tally.update(torch.tensor([[1, 2, 2, 1]]), torch.tensor([[1, 2, IGNORED, IGNORED]]))
        assert tally.scores().rows["PER"]["f1"] == 1.0
        assert tally.scores().rows["PER"]["said"] == 1


class TestNumbers:
    def test_scores_by_hand(self):
        tally = NumberTally()
        tally.update(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 5.0]))
        figures = tally.scores().figures
        assert figures["mean_absolute_error"] == pytest.approx(2 / 3)
        assert figures["root_mean_squared_error"] == pytest.approx((2 / 3) ** 0.5)
        assert figures["r2"] == pytest.approx(1 - 2 / 8)
        assert figures["pearson"] == pytest.approx(np.corrcoef([1, 2, 4], [1, 3, 5])[0, 1])

    @pytest.mark.parametrize("right", [[], [2.0], [2.0, 2.0]])
    def test_what_is_not_defined_is_left_out(self, right):
        tally = NumberTally()
        tally.update(torch.tensor(right) + 1, torch.tensor(right))
        assert {"r2", "pearson"}.isdisjoint(tally.scores().figures)
        assert tally.scores().count == len(right)

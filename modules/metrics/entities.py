"""EntityTally: precision, recall and F1 of whole entities among tagged words, as CoNLL's evaluation counts them."""

from collections import Counter

import torch
from torch import Tensor
from torchmetrics import Metric

from modules.bio import IGNORED, spans, tags_of
from modules.metrics.scores import Scores, Tally, class_row, mean_of_rows, ratio


class EntityTally(Tally):
    """Counts of entities: one is right when its type, its first and its last word are.

    `precision`, `recall` and `f1` are over all entities together (micro), `macro_…` are means over the types that are
    there or were said; `word_accuracy` is the share of words with the right tag.

    Args:
        entities: types, in the order of the tags.
    """

    def __init__(self, entities: list[str]) -> None:
        super().__init__()
        self.entities, self.tags = list(entities), tags_of(entities)
        self.counts = _Counts(len(entities))

    def update(self, said: Tensor, right: Tensor) -> None:  # type: ignore[override]
        """Add answers.

        Args:
            said: (rows, words), int64 indices of tags.
            right: (rows, words), int64, IGNORED where there is no word.
        """
        hits, guesses, support = Counter[str](), Counter[str](), Counter[str]()
        for guess, truth in zip(said.tolist(), right.tolist(), strict=True):
            words = [place for place, tag in enumerate(truth) if tag != IGNORED]
            found = set(spans([self.tags[guess[place]] for place in words]))
            there = set(spans([self.tags[truth[place]] for place in words]))
            hits.update(kind for kind, *_ in found & there)
            guesses.update(kind for kind, *_ in found)
            support.update(kind for kind, *_ in there)
        is_word = right != IGNORED
        counts = [[counter[name] for name in self.entities] for counter in (hits, guesses, support)]
        self.counts.update(
            torch.tensor(counts, dtype=torch.int64, device=right.device),
            torch.stack([((said == right) & is_word).sum(), is_word.sum(), is_word.any(1).sum()]),
        )

    def scores(self) -> Scores:
        by_entity, overall = (counts.tolist() for counts in self.counts.compute())
        rows = {name: class_row(*counts) for name, *counts in zip(self.entities, *by_entity, strict=True)}
        total = class_row(*map(sum, by_entity))
        right, words, sentences = overall
        figures = {name: total[name] for name in ("precision", "recall", "f1")}
        figures |= mean_of_rows(rows) | {"word_accuracy": ratio(right, words)}
        return Scores(figures, sentences, "sentences", rows)

    def reset(self) -> None:
        self.counts.reset()


class _Counts(Metric):
    """Adds up."""

    full_state_update = False

    def __init__(self, num_entities: int) -> None:
        super().__init__()
        zeros = torch.zeros(3, num_entities, dtype=torch.int64)
        self.add_state("by_entity", default=zeros, dist_reduce_fx="sum")
        self.add_state("overall", default=torch.zeros(3, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, by_entity: Tensor, overall: Tensor) -> None:
        self.by_entity += by_entity
        self.overall += overall

    def compute(self) -> tuple[Tensor, Tensor]:
        return self.by_entity, self.overall

"""Retrieval between every two modalities of an aligned space, and who is nearest to whom."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, permutations

import torch
from torch import Tensor

from stages.embedding import Space

Contents = Mapping[str, Mapping[str, int]]
"""Modality -> key of a sample -> a number that is equal where what the samples have of it is equal."""


def recalls(space: Space, contents: Contents | None = None) -> dict[str, dict[str, float]]:
    """Return recall at 1, 5 and 10, number of candidates and chance of `<first>_to_<second>`, for every two modalities.

    Candidates are what the samples that have both modalities have of the second; what several have counts once.

    Args:
        space: the samples.
        contents: what is the same in several of them; nothing by default.

    Raises:
        ValueError: when two modalities share no sample.
    """
    from modules.metrics.retrieval import RetrievalRecall

    found = {}
    for first, second in combinations(sorted(space.vectors), 2):
        *vectors, keys = space.pair(first, second)
        if not keys:
            raise ValueError(
                f"no sample has both {first} and {second}: nothing to retrieve; expected paired samples"
            )
        metric = RetrievalRecall(ks=(1, 5, 10))
        alike = same(contents, (first, second), keys)
        metric.update(*vectors, alike)
        directions = metric.compute()
        for direction, asks, asked in (("forward", first, second), ("backward", second, first)):
            candidates = len(alike[:, 1 if direction == "forward" else 0].unique())
            scores = {key: value.item() for key, value in directions[direction].items()}
            found[f"{asks}_to_{asked}"] = {**scores, "candidates": candidates, "chance": 1 / candidates}
    return found


def same(contents: Contents | None, modalities: tuple[str, ...], keys: list[str]) -> Tensor:
    """Return (keys, modalities), int64: numbers that are equal where the content of a modality is."""
    if contents is None:
        return torch.arange(len(keys)).unsqueeze(1).expand(-1, len(modalities))
    return torch.tensor([[contents[name][key] for name in modalities] for key in keys])


@dataclass(frozen=True)
class Neighbours:
    """The answers to one query: keys from the nearest on, and the place of the right one, counted from 1."""

    query: str
    nearest: list[str]
    similarities: list[float]
    place: int


def neighbours(
    space: Space,
    first: str,
    second: str,
    queries: list[str],
    *,
    count: int = 5,
    contents: Contents | None = None,
) -> list[Neighbours]:
    """Return what queries of modality `first` find among the samples' `second`.

    Args:
        space: the candidates are its samples that have both modalities.
        first: modality that asks.
        second: modality that is searched.
        queries: keys of samples that have both.
        count: how many to return, from the nearest on.
        contents: of several samples with the same, one is shown: the query's own, or else the first.
    """
    asking, asked, keys = space.pair(first, second)
    alike = same(contents, (second,), keys).flatten().tolist()
    found = []
    for own in map(keys.index, queries):
        similarity = asked @ asking[own]  # (candidates,)
        shown = {number: row for row, number in reversed(list(enumerate(alike)))} | {alike[own]: own}
        order = similarity.argsort(descending=True, stable=True).tolist()
        order = [row for row in order if shown[alike[row]] == row]
        nearest = order[:count]
        found.append(
            Neighbours(
                keys[own],
                [keys[i] for i in nearest],
                similarity[nearest].tolist(),
                place=order.index(own) + 1,
            )
        )
    return found


def examples(
    space: Space, draw: random.Random, count: int, contents: Contents | None = None
) -> dict[tuple[str, str], list[Neighbours]]:
    """Draw a few samples that have every modality, and let each search in every direction."""
    whole = set.intersection(*(set(rows.tolist()) for rows in space.rows.values()))
    queries = draw.sample([space.keys[row] for row in sorted(whole)], min(count, len(whole)))
    pairs = permutations(sorted(space.vectors), 2)
    return {
        (first, second): neighbours(space, first, second, queries, contents=contents)
        for first, second in pairs
    }


def shown(searches: Mapping[tuple[str, str], list[Neighbours]]) -> set[str]:
    """Return the keys of all samples that are queries or found."""
    found = [one for several in searches.values() for one in several]
    return {one.query for one in found} | {key for one in found for key in one.nearest}

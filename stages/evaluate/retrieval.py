"""Retrieval between every two modalities of an aligned space, and who is nearest to whom."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, permutations

from stages.embedding import Space


def recalls(space: Space) -> dict[str, dict[str, float]]:
    """Return recall at 1 and 5, number of candidates and chance of `<first>_to_<second>`, for every two modalities.

    Candidates are the samples that have both modalities.

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
        metric = RetrievalRecall(ks=(1, 5))
        metric.update(*vectors)
        directions = metric.compute()
        about = {"candidates": len(keys), "chance": 1 / len(keys)}
        for direction, name in (("forward", f"{first}_to_{second}"), ("backward", f"{second}_to_{first}")):
            found[name] = {**{key: value.item() for key, value in directions[direction].items()}, **about}
    return found


@dataclass(frozen=True)
class Neighbours:
    """The answers to one query: keys from the nearest on, and the place of the right one, counted from 1."""

    query: str
    nearest: list[str]
    similarities: list[float]
    place: int


def neighbours(space: Space, first: str, second: str, queries: list[str], count: int = 5) -> list[Neighbours]:
    """Return what queries of modality `first` find among the samples' `second`.

    Args:
        space: the candidates are its samples that have both modalities.
        first: modality that asks.
        second: modality that is searched.
        queries: keys of samples that have both.
        count: how many to return, from the nearest on.
    """
    asking, asked, keys = space.pair(first, second)
    found = []
    for own in map(keys.index, queries):
        similarity = asked @ asking[own]  # (candidates,)
        order = similarity.argsort(descending=True, stable=True).tolist()
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


def examples(space: Space, draw: random.Random, count: int) -> dict[tuple[str, str], list[Neighbours]]:
    """Draw a few samples that have every modality, and let each search in every direction."""
    whole = set.intersection(*(set(rows.tolist()) for rows in space.rows.values()))
    queries = draw.sample([space.keys[row] for row in sorted(whole)], min(count, len(whole)))
    pairs = permutations(sorted(space.vectors), 2)
    return {(first, second): neighbours(space, first, second, queries) for first, second in pairs}


def shown(searches: Mapping[tuple[str, str], list[Neighbours]]) -> set[str]:
    """Return the keys of all samples that are queries or found."""
    found = [one for several in searches.values() for one in several]
    return {one.query for one in found} | {key for one in found for key in one.nearest}

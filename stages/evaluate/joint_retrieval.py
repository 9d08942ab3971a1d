"""Joint retrieval: a sample asks with all its other modalities at once, and again with one of them missing."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from modules import parts
from modules.embedder import Embedder
from modules.metrics.retrieval import ranks
from modules.objectives.completion import Completion
from stages.embedding import Space
from stages.evaluate.retrieval import Contents

Ask = Callable[[Space, str, Sequence[str]], Tensor]
"""Space, modality that is searched, modalities that ask -> unit vectors (samples, dim)."""


def joint_recalls(
    space: Space, ask: Ask, contents: Contents | None = None
) -> dict[str, dict[str, float | dict[str, float]]]:
    """Return, for each modality that is searched, recall at 1 of queries by all others, and with one of them missing.

    Candidates are what the samples that have every modality have of the one that is searched; what several have counts
    once.

    Args:
        space: of three modalities or more.
        ask: how modalities become one query: `by_mean`, or a `Completed`.
        contents: what is the same in several of the samples; nothing by default.

    Returns:
        By modality that is searched: `candidates`, `recall_at_1`, and by missing modality `without` and `kept`, its
        share of `recall_at_1`. Empty where there are fewer than three modalities, or no sample has them all.
    """
    space = whole(space)
    if len(space.vectors) < 3 or not space.keys:
        return {}
    found: dict[str, dict[str, float | dict[str, float]]] = {}
    for searched in sorted(space.vectors):
        asking = [name for name in sorted(space.vectors) if name != searched]
        same = _same(space.keys, None if contents is None else contents[searched])
        full = _recall(space, searched, ask(space, searched, asking), same)
        without = {
            missing: _recall(space, searched, ask(space, searched, [n for n in asking if n != missing]), same)
            for missing in asking
        }
        found[searched] = {
            "candidates": len(same[:, 1].unique()),
            "recall_at_1": full,
            "without": without,
            "kept": {missing: recall / full if full else 0.0 for missing, recall in without.items()},
        }
    return found


def whole(space: Space) -> Space:
    """Return the samples that have every modality; row i of each modality is of sample i."""
    present = torch.ones(len(space.keys), dtype=torch.bool)
    for rows in space.rows.values():
        present &= torch.zeros_like(present).index_fill(0, rows, True)
    samples = present.nonzero().squeeze(1)
    vectors, each = {}, torch.arange(len(samples))
    for name, rows in space.rows.items():
        kept = present[rows]
        vectors[name] = space.vectors[name][kept][rows[kept].argsort()]
    return Space([space.keys[row] for row in samples.tolist()], vectors, dict.fromkeys(vectors, each))


def by_mean(space: Space, searched: str, asking: Sequence[str]) -> Tensor:
    """Ask by the mean of what is there: a modality that is missing leaves the mean."""
    return torch.nn.functional.normalize(torch.stack([space.vectors[name] for name in asking]).sum(0), dim=-1)


class Completed:
    """Asks by what a trained completion tells of the modality that is searched."""

    def __init__(self, completion: Completion) -> None:
        self.completion = completion

    @torch.inference_mode()
    def __call__(self, space: Space, searched: str, asking: Sequence[str]) -> Tensor:
        known = {name: space.vectors[name] for name in asking}
        return self.completion.predict(known, space.rows, len(space.keys), searched)[0]


def load_completion(folder: Path, embedder: Embedder) -> Completion | None:
    """Return the completion that an align run left in its `parts/` folder, or None where it trained none.

    Raises:
        PartError: when it is damaged.
        ValueError: when it is none, or one of another run: of modalities or a width that the encoders do not have.
    """
    path = folder / "completion"
    if not path.is_dir():
        return None
    part = parts.load(str(path))
    if not isinstance(part, Completion):
        raise ValueError(
            f"{path} is a {type(part).__name__}, expected a Completion: take the parts of one run"
        )
    if set(part.maps) - set(embedder.encoders) or part.dim != embedder.dim:
        raise ValueError(
            f"{path} completes {', '.join(part.maps)} in {part.dim} dimensions, the encoders beside it have "
            f"{', '.join(embedder.encoders)} in {embedder.dim}: take the parts of one run"
        )
    return part.eval()


def _same(keys: Sequence[str], numbers: Mapping[str, int] | None) -> Tensor:
    """Return (keys, 2): queries are all their own, candidates the same where their numbers are."""
    each = torch.arange(len(keys))
    return torch.stack([each, each if numbers is None else torch.tensor([numbers[key] for key in keys])], 1)


def _recall(space: Space, searched: str, queries: Tensor, same: Tensor) -> float:
    return (ranks(queries, space.vectors[searched], same) < 1).double().mean().item()

"""Zero-shot classification: classes are described in words, and the nearest description wins."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.modalities.build import build_modalities
from datamodules.stream import batches
from modules.embedder import Embedder


@dataclass(frozen=True)
class Predictions:
    """Classes told, and classes that are right; both (samples,) int64, indices into `classes`."""

    classes: list[str]
    predicted: Tensor
    target: Tensor

    def scores(self) -> dict[str, Any]:
        """Return accuracy, the chance of a guess, and between how many classes."""
        accuracy = (self.predicted == self.target).double().mean().item()
        size = len(self.classes)
        return {"accuracy": accuracy, "chance": 1 / size, "candidates": size, "count": len(self.target)}

    def confusion(self) -> list[list[int]]:
        """Return how many samples of each class (row) were told to be of each class (column)."""
        size = len(self.classes)
        return (
            torch.bincount(self.target * size + self.predicted, minlength=size * size)
            .view(size, size)
            .tolist()
        )


@torch.no_grad()
def class_vectors(
    embedder: Embedder, text: Any, *, classes: list[str], templates: list[str], device: torch.device
) -> Tensor:
    """Embed the prompts of each class: (classes, templates, dim).

    Args:
        embedder: an aligned space that knows text.
        text: the modality that makes its inputs.
        classes: names.
        templates: prompts with `{}` where the name goes.
        device: where the embedder is.
    """
    vectors = []
    for name in classes:
        prompts = [text.decode(template.replace("{}", name).encode(), "txt") for template in templates]
        inputs = {key: tensor.to(device) for key, tensor in text.collate(prompts).items()}
        vectors.append(embedder.embed("text", inputs))
    return torch.stack(vectors)


def nearest_class(vectors: Tensor, prompts: Tensor) -> Tensor:
    """Return the class (rows,) that has the prompt nearest to each of the vectors.

    Differs from CLIP (arXiv:2103.00020, section 3.1.4), which takes the mean of a class's prompts: prompts here may
    say different things ("a red seven", "a blue seven"), and the mean of those is near none of them.

    Args:
        vectors: (rows, dim), unit length.
        prompts: (classes, templates, dim), unit length.
    """
    similarities = vectors @ prompts.flatten(0, 1).T  # (rows, classes x templates)
    return similarities.unflatten(1, prompts.shape[:2]).amax(2).argmax(1)


@torch.no_grad()
def classify(
    embedder: Embedder,
    shards: Path,
    modality: str,
    *,
    classes: list[str],
    templates: list[str],
    batch_size: int,
    device: torch.device,
) -> Predictions:
    """Tell the class of every sample of a set of shards.

    Args:
        embedder: an aligned space that knows text and `modality`.
        shards: samples with a class member (`.cls`).
        modality: what is classified.
        classes: names, in any order.
        templates: prompts with `{}` where the name of the class goes.
        batch_size: samples at once; does not change the outcome.
        device: where the embedder is.

    Raises:
        ValueError: when no sample has both the modality and a class.
    """
    label = {"class_path": "datamodules.modalities.label.Label", "init_args": {"classes": classes}}
    configs = {name: embedder.input_configs[name] for name in (modality, "text")}
    modalities = build_modalities({**configs, "label": label})
    described = class_vectors(
        embedder, modalities.pop("text"), classes=classes, templates=templates, device=device
    )
    predicted, target = [], []
    for batch in batches(shards, modalities, batch_size):
        batch = batch.to(device)
        nearest = nearest_class(embedder.embed(modality, batch.inputs[modality]), described)
        seen, known = batch.rows[modality], batch.rows["label"]
        predicted.append(nearest[torch.isin(seen, known)].cpu())
        target.append(batch.inputs["label"]["label"][torch.isin(known, seen)].cpu())
    if not sum(map(len, target)):
        raise ValueError(
            f"{shards} holds no sample with both {modality} and a class: expected a prepared class folder"
        )
    return Predictions(classes, torch.cat(predicted), torch.cat(target))

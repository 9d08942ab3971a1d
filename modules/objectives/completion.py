"""Completion: a sample's embedding in one modality, told from its embeddings in the others."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from modules.collectives import global_mean
from modules.objectives.aligned import Aligned, AlignmentObjective


class Completion(AlignmentObjective):
    """Cross-modal completion: for every modality a predictor from the mean of the others' embeddings.

    The loss is BYOL's 2 - 2 cosine between prediction and target (arXiv:2006.07733, eq. 2), and the target gets no
    gradient; the others stand in for BYOL's second view, and there is no momentum encoder, so it needs a contrastive
    objective beside it (`Weighted`) to keep embeddings apart. Each modality is mapped by a matrix of its own
    before the mean, so the predictor knows which ones it was given. Samples with that modality alone are left out.

    Args:
        modalities: those that are completed, and completed from.
        dim: width of the shared space.
        hidden: width of the predictors' hidden layer.

    Raises:
        ValueError: when fewer than two modalities are named; `configure` and in use, when the model lacks one, or has
            another width.
    """

    def __init__(self, modalities: list[str], dim: int, hidden: int = 512) -> None:
        super().__init__()
        if len(set(modalities)) < 2:
            raise ValueError(
                f"completion needs two modalities or more, was given: {', '.join(modalities) or 'none'}"
            )
        self.dim = dim
        self.maps = nn.ModuleDict({name: nn.Linear(dim, hidden) for name in modalities})
        self.predictors = nn.ModuleDict(
            {
                name: nn.Sequential(nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, dim))
                for name in modalities
            }
        )

    def configure(self, widths: Mapping[str, int], dim: int) -> None:
        if lacking := [name for name in self.maps if name not in widths]:
            raise ValueError(
                f"completion of {', '.join(lacking)}: the model has {', '.join(widths)}; take it out of `modalities`"
            )
        if dim != self.dim:
            raise ValueError(
                f"completion in {self.dim} dimensions, the shared space has {dim}: set its dim to {dim}"
            )

    def losses(self, aligned: Aligned) -> dict[str, Tensor]:
        """Return `completion_<modality>` for each, the mean over all ranks."""
        for name in self.maps:
            width = aligned.embeddings[name].shape[1] if name in aligned.embeddings else None
            if width != self.dim:
                raise ValueError(
                    f"completion of {name} in {self.dim} dimensions: the model has "
                    + ", ".join(f"{key} in {vectors.shape[1]}" for key, vectors in aligned.embeddings.items())
                )
        losses = {}
        for name in self.maps:
            index = aligned.rows[name]
            context, givers = self.context(aligned, without=name)
            told = givers[index] > 0
            prediction = normalize(self.predictors[name](context[index[told]]), dim=-1)
            target = aligned.embeddings[name][told].detach()
            distance = 2 - 2 * (prediction * target).sum(1)
            losses[f"completion_{name}"] = global_mean(distance.sum(), len(distance))
        return losses

    def context(self, aligned: Aligned, without: str) -> tuple[Tensor, Tensor]:
        """Return the mean of what the other modalities give each sample, (size, hidden), and how many gave, (size,)."""
        others = [name for name in self.maps if name != without]
        mapped = torch.cat([self.maps[name](aligned.embeddings[name]) for name in others])
        index = torch.cat([aligned.rows[name] for name in others])
        total = mapped.new_zeros(aligned.size, mapped.shape[1]).index_add(0, index, mapped)
        givers = mapped.new_zeros(aligned.size).index_add(0, index, mapped.new_ones(len(index)))
        return total / givers.clamp(min=1).unsqueeze(1), givers

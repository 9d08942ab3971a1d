"""Completion: a sample's embedding in one modality, told from its embeddings in the others."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from modules.collectives import global_mean
from modules.objectives.aligned import Aligned, AlignmentObjective
from modules.parts import Part


class Completion(AlignmentObjective, Part):
    """Cross-modal completion: for every modality a predictor from the mean of the others' embeddings.

    The loss is BYOL's 2 - 2 cosine between prediction and target (arXiv:2006.07733, eq. 2), and the target gets no
    gradient; the others stand in for BYOL's second view, and there is no momentum encoder, so it needs a contrastive
    objective beside it (`Weighted`) to keep embeddings apart. Each modality is mapped by a matrix of its own
    before the mean, so the predictor knows which ones it was given. Samples with that modality alone are left out.
    Handed over as the part `completion`: it asks by several modalities at once, and does without one.

    Args:
        modalities: those that are completed, and completed from.
        dim: width of the shared space.
        hidden: width of the predictors' hidden layer.

    Raises:
        ValueError: when fewer than two modalities are named; `configure` and in use, when the model lacks one, or has
            another width.
    """

    compares_samples = False

    def __init__(self, modalities: list[str], dim: int, hidden: int = 512) -> None:
        super().__init__()
        if len(set(modalities)) < 2:
            raise ValueError(
                f"completion needs two modalities or more, was given: {', '.join(modalities) or 'none'}"
            )
        self.dim, self.hidden = dim, hidden
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
            predicted, told = self.predict(aligned.embeddings, aligned.rows, aligned.size, name)
            told = told[index]
            target = aligned.embeddings[name][told].detach()
            distance = 2 - 2 * (predicted[index[told]] * target).sum(1)
            losses[f"completion_{name}"] = global_mean(distance.sum(), len(distance))
        return losses

    def predict(
        self, embeddings: Mapping[str, Tensor], rows: Mapping[str, Tensor], size: int, name: str
    ) -> tuple[Tensor, Tensor]:
        """Tell the embedding of one modality from those of the others, of whichever a sample has.

        Args:
            embeddings: unit vectors (rows, dim) by modality; that of `name` is not looked at, others may be missing.
            rows: (rows,), int64: which sample each row belongs to, by modality.
            size: how many samples there are.
            name: the modality to tell.

        Returns:
            Unit vectors (size, dim), and (size,), bool: whether anything was known of the sample.

        Raises:
            ValueError: when none of the other modalities is there.
        """
        others = [other for other in self.maps if other != name and other in embeddings]
        if not others:
            raise ValueError(
                f"nothing to tell {name} from: expected embeddings of another modality that is completed"
            )
        mapped = torch.cat([self.maps[other](embeddings[other]) for other in others])
        index = torch.cat([rows[other] for other in others])
        total = mapped.new_zeros(size, mapped.shape[1]).index_add(0, index, mapped)
        givers = mapped.new_zeros(size).index_add(0, index, mapped.new_ones(len(index)))
        context = total / givers.clamp(min=1).unsqueeze(1)
        return normalize(self.predictors[name](context), dim=-1), givers > 0

    def init_args(self) -> dict[str, Any]:
        return {"modalities": list(self.maps), "dim": self.dim, "hidden": self.hidden}

    def exports(self) -> dict[str, Part]:
        return {"completion": self}

"""Quality: which modalities of a sample are worth listening to, and how much."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules.parts import Part
from modules.tokens import Tokens


class QualityEstimator(Part):
    """Scores each row of each modality from 0 to 1, by a logistic regression on its mean token.

    It learns from the loss of the fusion that its scores weigh. It begins by giving everything the same 0.88.

    Args:
        widths: modality -> width of its tokens.
    """

    def __init__(self, widths: dict[str, int]) -> None:
        super().__init__()
        self.widths = dict(sorted(widths.items()))
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name, width in self.widths.items()})
        linears = {name: nn.Linear(width, 1) for name, width in self.widths.items()}
        for linear in linears.values():
            nn.init.zeros_(linear.weight)
            nn.init.constant_(linear.bias, 2.0)
        self.linears = nn.ModuleDict(linears)

    def init_args(self) -> dict[str, Any]:
        return {"widths": self.widths}

    def forward(self, tokens: Mapping[str, Tokens]) -> dict[str, Tensor]:
        """Return (rows,) by modality.

        Raises:
            ValueError: when there is a modality that it was not built for.
        """
        unknown = sorted(set(tokens) - set(self.widths))
        if unknown:
            raise ValueError(
                f"the estimator was given {', '.join(unknown)}, it was built for {', '.join(self.widths)}: add the "
                "width of each to `widths`, or leave it out"
            )
        scores = {}
        for name, each in tokens.items():
            clean = Tokens(each.features.masked_fill(~each.mask.unsqueeze(-1), 0), each.mask)
            scores[name] = self.linears[name](self.norms[name](clean.pooled())).squeeze(1).sigmoid()
        return scores


class QualitySelection(nn.Module):
    """Drops modalities of a sample whose quality is too low; those that stay keep their quality as their weight.

    A score may be an estimate or a measurement, such as a signal-to-noise ratio brought to 0 to 1. What comes out is
    the `quality` of a fusion's forward, where 0 is as good as absent. What is dropped gets no gradient: train an
    estimator without selection, or with a floor well below where its scores begin.

    Args:
        floor: below it a modality is dropped.
        at_least: modalities that a sample keeps in any case, its best.

    Raises:
        ValueError: when the floor is not from 0 to 1, or a sample might keep none.
    """

    def __init__(self, floor: float = 0.2, at_least: int = 1) -> None:
        super().__init__()
        if not 0 <= floor <= 1:
            raise ValueError(f"floor is {floor}, expected from 0 to 1")
        if at_least < 1:
            raise ValueError(f"at_least is {at_least}: a sample must keep one modality or more")
        self.floor, self.at_least = floor, at_least

    def forward(
        self, scores: Mapping[str, Tensor], rows: Mapping[str, Tensor], size: int
    ) -> dict[str, Tensor]:
        """Return the scores (rows,) by modality, with 0 for what is dropped.

        Args:
            scores: (rows,) by modality, from 0 to 1.
            rows: (rows,), int64, by modality: which sample each row belongs to.
            size: samples in the batch.

        Raises:
            ValueError: when a modality's scores and rows differ in number.
        """
        names = sorted(scores)  # a draw between equals does not depend on the order of modalities
        for name in names:
            if name not in rows or rows[name].shape != scores[name].shape:
                found = len(rows[name]) if name in rows else 0
                raise ValueError(
                    f"{len(scores[name])} scores and {found} rows of {name}: expected as many; give each row its score"
                )
        if not names:
            return {}
        columns = [
            scores[name].new_full((size,), -1.0).index_copy(0, rows[name], scores[name].detach())
            for name in names
        ]
        table = torch.stack(columns, 1)  # (size, modalities), -1 where absent
        place = torch.argsort(table, dim=1, descending=True, stable=True).argsort(1)
        stays = (table >= self.floor) | (place < self.at_least)
        return {
            name: torch.where(stays[rows[name], column], scores[name], 0) for column, name in enumerate(names)
        }

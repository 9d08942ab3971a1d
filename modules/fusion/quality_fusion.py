"""Fusion by quality: any other fusion, whose modalities count as much as each one's quality says."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from modules.fusion.fusion import Fused, Fusion, FusionSource, as_fusion
from modules.fusion.quality import QualityEstimator, QualitySelection
from modules.parts import within
from modules.tokens import Tokens


class QualityFusion(Fusion):
    """Estimates how good each modality of a sample is, and lets another fusion weigh it by that.

    The estimator learns from the loss of whatever follows. In evaluation, a modality below `floor` is dropped as if it
    were absent, all but a sample's best; in training none is, since what is dropped gets no gradient. Quality that is
    given is multiplied by what is estimated. Weights: those of the fusion inside.

    Args:
        widths: modality -> width of its tokens.
        fusion: what joins: a class without its `widths`, or a part for the same modalities.
        floor: below it a modality is dropped, from 0 to 1; 0 drops nothing. Estimates begin at 0.88.
        at_least: modalities that a sample keeps in any case, its best.

    Raises:
        ValueError: when the fusion inside is for other modalities or widths, or a setting is out of its range.
    """

    def __init__(
        self, widths: dict[str, int], fusion: FusionSource, floor: float = 0.2, at_least: int = 1
    ) -> None:
        joined = as_fusion(fusion, widths)
        super().__init__(joined.widths, joined.dim)
        self.fusion = joined
        self.num_leading = joined.num_leading
        self.estimator = QualityEstimator(self.widths)
        self.selection = QualitySelection(floor, at_least)

    def init_args(self) -> dict[str, Any]:
        chosen = {"floor": self.selection.floor, "at_least": self.selection.at_least}
        return {"widths": self.widths, "fusion": within(self.fusion), **chosen}

    def fuse(self, tokens: Mapping[str, Tokens], quality: Tensor) -> tuple[Tokens, Tensor]:
        return self.fusion.fuse(tokens, quality)

    def forward(
        self,
        tokens: Mapping[str, Tokens],
        rows: Mapping[str, Tensor],
        size: int,
        quality: Mapping[str, Tensor] | None = None,
    ) -> Fused:
        given = quality or {}
        self._check(tokens, rows, given)
        all_tokens, all_rows = {}, {}
        for name in self.modalities:  # one that is not given too: every parameter gets a gradient
            all_tokens[name], all_rows[name] = self._given(name, tokens, rows)
        scores = self.qualities(all_tokens)
        scores = {name: score * given[name] if name in given else score for name, score in scores.items()}
        if not self.training:
            scores = self.selection(scores, all_rows, size)
        return self.fusion(all_tokens, all_rows, size, scores)

    def qualities(self, tokens: Mapping[str, Tokens]) -> dict[str, Tensor]:
        """Return how good each row is, (rows,) from 0 to 1, by modality; 0 for a row without a real token."""
        scores = self.estimator(tokens)
        return {name: torch.where(each.mask.any(1), scores[name], 0) for name, each in tokens.items()}

"""Fusion: the interface that every way of joining modalities has, and what it returns."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from modules.parts import Part
from modules.tokens import Tokens, full


@dataclass(frozen=True)
class Fused:
    """What a fusion made of a batch.

    Args:
        tokens: Tokens (size, tokens, dim), one row a sample; a sample without any modality has no real token.
        weights: (size,) by modality: how much each counted for a sample. From 0 (absent) to 1; they add up to 1 for
            each sample that has a modality. What they measure stands in the fusion's docstring; those that are
            looks of attention or lengths are observed, and carry no gradient.
        by_modality: Tokens (size, tokens, dim) of each modality, its tokens at the places that the encoder gave them;
            empty where the fusion does not keep them apart.
    """

    tokens: Tokens
    weights: Mapping[str, Tensor]
    by_modality: Mapping[str, Tokens] = field(default_factory=dict)


class Fusion(Part):
    """Joins any set of modalities of a sample, in any pattern of presence.

    A modality holds rows only for the samples that have it, at most one row for each; one that is not given at all
    is one with zero rows. What comes out does not depend on padding, on the order of modalities, or on other samples.

    Args:
        widths: modality -> width of its tokens; the modalities that the fusion is built for.
        dim: width of the tokens that come out.

    Attributes:
        modalities: sorted; the order of columns wherever modalities are columns.
        least: how many modalities it must be built for.
        num_leading: tokens of its own that come out before those of the modalities, which follow one modality after
            another; None where what comes out is not the modalities' tokens.

    Raises:
        ValueError: when it is built for fewer modalities than `least`, or a width is not positive.
    """

    least = 1
    num_leading: int | None = None

    def __init__(self, widths: Mapping[str, int], dim: int) -> None:
        super().__init__()
        if len(widths) < self.least:
            raise ValueError(
                f"{type(self).__name__} joins {self.least} modalities or more, was given widths of "
                f"{', '.join(sorted(widths)) or 'none'}: name the width of each modality's encoder"
            )
        wrong = {name: width for name, width in {**widths, "dim": dim}.items() if width < 1}
        if wrong:
            raise ValueError(f"widths must be 1 or more, {type(self).__name__} was given {wrong}")
        self.widths = dict(sorted(widths.items()))
        self.dim = dim

    @property
    def modalities(self) -> list[str]:
        return list(self.widths)

    def init_args(self) -> dict[str, Any]:
        return {"widths": self.widths, "dim": self.dim}

    def check_widths(self, widths: Mapping[str, int]) -> None:
        """Refuse encoders that it was not built for, before there is a batch.

        Args:
            widths: modality -> width of its encoder's tokens; may lack some that the fusion was built for.

        Raises:
            ValueError: when a modality is not one the fusion was built for, or has another width.
        """
        unknown = sorted(set(widths) - set(self.widths))
        wrong = sorted(name for name in set(widths) & set(self.widths) if widths[name] != self.widths[name])
        found = [f"no {name}, whose encoder is {widths[name]} wide" for name in unknown]
        found += [f"{name} {self.widths[name]} wide, whose encoder is {widths[name]} wide" for name in wrong]
        if found:
            raise ValueError(
                f"{type(self).__name__} was built for {'; for '.join(found)}: take fusion and encoders from one run, "
                "or name the fusion's class without `widths`, which then are the encoders'"
            )

    @abstractmethod
    def fuse(self, tokens: Mapping[str, Tokens], quality: Tensor) -> tuple[Tokens, Tensor]:
        """Return Tokens (size, tokens, dim) and how much each modality counted (size, modalities), in any unit.

        Args:
            tokens: Tokens (size, tokens, width) for every modality; of an absent one no token is real.
            quality: (size, modalities), from 0 to 1, and 0 exactly where a modality is absent.
        """

    def forward(
        self,
        tokens: Mapping[str, Tokens],
        rows: Mapping[str, Tensor],
        size: int,
        quality: Mapping[str, Tensor] | None = None,
    ) -> Fused:
        """Join what each sample has.

        Args:
            tokens: Tokens (rows, tokens, width) by modality, of some or all that the fusion was built for.
            rows: (rows,), int64, by modality: which sample each row belongs to.
            size: samples in the batch; may be 0.
            quality: (rows,) by modality, from 0 (as if absent) to 1; 1 for a modality that is not named.

        Raises:
            ValueError: when a modality is not one the fusion was built for, or has another width, or tokens, rows
                and quality disagree, or a row belongs to a sample that is not in the batch or has one already.
        """
        quality = quality or {}
        self._check(tokens, rows, quality)
        for name in tokens:
            _check_places(name, rows[name], size)
        places = max(
            1, size
        )  # attention cannot reshape an empty batch: one sample without anything stands in
        weights, dense = [], {}
        for name in self.modalities:
            here, place = self._given(name, tokens, rows)
            scores = quality.get(name, torch.ones(len(here), device=here.features.device))
            placed = _place(here, place, places)
            weight = placed.features.new_zeros(places).index_copy(0, place, scores.to(placed.features.dtype))
            weights.append(weight * placed.mask.any(1))
            mask = placed.mask & (weight > 0).unsqueeze(1)
            dense[name] = Tokens(placed.features.masked_fill(~mask.unsqueeze(-1), 0), mask)
        weight = torch.stack(weights, 1)  # (places, modalities)
        fused, shares = self.fuse(dense, weight)
        features = fused.features.masked_fill(~fused.mask.unsqueeze(-1), 0)
        shares = _shares(shares, weight > 0)
        kept = Tokens(features[:size], fused.mask[:size])
        return Fused(
            kept,
            {name: shares[:size, column] for column, name in enumerate(self.modalities)},
            self._apart(kept, [each.mask.shape[1] for each in dense.values()]),
        )

    def _apart(self, tokens: Tokens, lengths: Sequence[int]) -> dict[str, Tokens]:
        """Return the tokens that came out by modality, where the fusion keeps them apart."""
        if self.num_leading is None:
            return {}
        pieces = [self.num_leading, *lengths]
        features, masks = tokens.features.split(pieces, 1), tokens.mask.split(pieces, 1)
        return {
            name: Tokens(features[number], masks[number])
            for number, name in enumerate(self.modalities, start=1)
        }

    def _given(
        self, name: str, tokens: Mapping[str, Tokens], rows: Mapping[str, Tensor]
    ) -> tuple[Tokens, Tensor]:
        if name in tokens:
            return tokens[name], rows[name]
        like = next(iter(tokens.values())).features if tokens else next(self.parameters())
        return full(like.new_zeros(0, 1, self.widths[name])), torch.zeros(
            0, dtype=torch.int64, device=like.device
        )

    def _check(
        self, tokens: Mapping[str, Tokens], rows: Mapping[str, Tensor], quality: Mapping[str, Tensor]
    ) -> None:
        for what, names in (("tokens", tokens), ("quality", quality)):
            unknown = sorted(set(names) - set(self.widths))
            if unknown:
                raise ValueError(
                    f"{type(self).__name__} was given {what} of {', '.join(unknown)}, it was built for "
                    f"{', '.join(self.modalities)}: add the width of each to `widths`"
                )
        for name, each in tokens.items():
            if each.features.shape[2] != self.widths[name]:
                raise ValueError(
                    f"{type(self).__name__} was given {name} {each.features.shape[2]} wide, it was built for "
                    f"{self.widths[name]}: set widths.{name} to the encoder's dim"
                )
            if name not in rows or rows[name].shape != (len(each),):
                found = f"{tuple(rows[name].shape)}" if name in rows else "none"
                raise ValueError(
                    f"{len(each)} rows of {name}, and samples they belong to: {found}; expected ({len(each)},)"
                )
        for name, scores in quality.items():
            if name not in tokens or scores.shape != (len(tokens[name]),):
                count = len(tokens[name]) if name in tokens else 0
                raise ValueError(
                    f"quality of {name} is {tuple(scores.shape)}, expected one for each row: ({count},)"
                )


FusionSource = Part | Callable[[dict[str, int]], Fusion]
"""In a config: a class of fusion without its `widths`, which will be the encoders'; or `modules.parts.load` of one.

The order matters: a class with `widths` is built as it stands."""


def as_fusion(source: FusionSource, widths: Mapping[str, int]) -> Fusion:
    """Return the fusion that a config names, built for the encoders or checked against them.

    Args:
        source: what the config names.
        widths: modality -> width of its encoder's tokens.

    Raises:
        ValueError: when it is no fusion, or does not take the encoders' tokens.
    """
    fusion = source if isinstance(source, Part) else source(dict(widths))
    if not isinstance(fusion, Fusion):
        raise ValueError(
            f"a fusion was expected, found a {type(fusion).__name__}: name a class of modules/fusion, or the folder "
            "of a part that is called fusion"
        )
    fusion.check_widths(widths)
    return fusion


def one_token(features: Tensor, quality: Tensor) -> Tokens:
    """Return one vector a sample as Tokens (size, 1, dim), real where the sample has a modality.

    Args:
        features: (size, dim).
        quality: (size, modalities), 0 where absent.
    """
    return Tokens(features.unsqueeze(1), (quality > 0).any(1, keepdim=True))


def log_weight(mask: Tensor, quality: Tensor) -> Tensor:
    """Return what attention adds to the logit of a key so that it counts `quality` times: (size, tokens).

    Args:
        mask: (size, tokens), bool; -inf where it is False.
        quality: (size,).
    """
    log = quality.clamp(min=torch.finfo(quality.dtype).tiny).log().unsqueeze(1)
    return log.expand(mask.shape).masked_fill(~mask, -torch.inf)


def _check_places(name: str, rows: Tensor, size: int) -> None:
    places = rows.unique().tolist()
    if places and not 0 <= places[0] <= places[-1] < size:
        raise ValueError(
            f"rows of {name} belong to samples {places[0]} to {places[-1]}, the batch has {size}: "
            f"expected 0 to {size - 1}"
        )
    if len(places) < len(rows):
        raise ValueError(
            f"{len(rows)} rows of {name} belong to {len(places)} samples: expected one row a sample; "
            "join the tokens of those that have more"
        )


def _place(tokens: Tokens, rows: Tensor, size: int) -> Tokens:
    """Spread rows over samples; a sample without one gets a row of which no token is real."""
    shape = tokens.features.shape[1:]
    clean = tokens.features.masked_fill(~tokens.mask.unsqueeze(-1), 0)  # whatever padding holds, NaN too
    features = clean.new_zeros(size, *shape).index_copy(0, rows, clean)
    mask = tokens.mask.new_zeros(size, shape[0]).index_copy(0, rows, tokens.mask)
    return Tokens(features, mask)


def _shares(shares: Tensor, present: Tensor) -> Tensor:
    """Bring (size, modalities) to a sum of one for each sample; where all are zero, equal among those present."""
    shares = shares * present
    total = shares.sum(1, keepdim=True)
    equal = present / present.sum(1, keepdim=True).clamp(min=1)
    return torch.where(total > 0, shares / torch.where(total > 0, total, 1), equal.to(shares.dtype))

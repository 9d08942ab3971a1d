"""MediaAttention: layers inside a language model that look at media, where a projector would put them into its text."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modules.connector import Connector
from modules.gated_cross_attention import GatedCrossAttention
from modules.resampler import PerceiverResampler
from modules.tokens import Tokens


class View(NamedTuple):
    """The media of one kind that the texts of a batch look at.

    media: Tokens (rows, media tokens, dim), all the media of a row in order; owner: (rows, media tokens), int64, which
    medium of its row a token is of; seen: (rows, tokens), int64, which medium a token of the text looks at, or -1.
    """

    media: Tokens
    owner: Tensor
    seen: Tensor

    def at(self, length: int) -> Tensor:
        """Return `seen` for a text of another length: one that has grown, or the newest tokens of one with a cache.

        What is generated has no marks, so it looks at what the last token of the prompt looked at.
        """
        width = self.seen.shape[1]
        if length < width:
            return self.seen[:, -1:].expand(-1, length)
        return torch.cat([self.seen, self.seen[:, -1:].expand(-1, length - width)], 1)


class MediaAttention(Connector):
    """Flamingo's way (arXiv:2204.14198, section 2): a Perceiver Resampler, and gated layers that look at its latents.

    The layers stand before those of a language model that `before` names, which may be frozen: their gates begin
    closed, so that it says at first what it said before. A medium takes no place in the text; a token looks at the last
    medium of this kind before it. Differs in that each modality has layers of its own.

    Args:
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model.
        before: numbers of the language model's layers, from 0, that a gated layer is put before.
        num_latents: tokens that a medium becomes.
        num_layers: depth of the resampler.
        num_heads: attention heads of both.

    Raises:
        ValueError: when `before` names no layer or one twice, or the width does not divide into the heads.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        before: list[int],
        num_latents: int = 64,
        num_layers: int = 2,
        num_heads: int = 8,
    ) -> None:
        super().__init__()
        if not before or len(set(before)) < len(before):
            raise ValueError(
                f"before is {before}: expected one or more layers of the language model, each once"
            )
        self.in_dim, self.out_dim, self.before = in_dim, out_dim, sorted(before)
        self.resampler = PerceiverResampler(in_dim, out_dim, num_latents, num_layers, num_heads)
        self.layers = nn.ModuleDict(
            {str(number): GatedCrossAttention(out_dim, out_dim, num_heads) for number in self.before}
        )

    def init_args(self) -> dict[str, Any]:
        inner = self.resampler.init_args()
        counts = {name: inner[name] for name in inner if name.startswith("num_")}
        return {"in_dim": self.in_dim, "out_dim": self.out_dim, "before": self.before, **counts}

    def forward(self, tokens: Tokens) -> Tokens:
        """Return Tokens (rows, num_latents, out_dim), for the layers to look at."""
        return self.resampler(tokens)

    def check_layers(self, modality: str, count: int) -> None:
        """Refuse a language model that lacks a layer.

        Raises:
            ValueError: when `before` names a layer that is not there.
        """
        if wrong := [number for number in self.before if not 0 <= number < count]:
            raise ValueError(
                f"media attention to {modality} stands before layer {', '.join(map(str, wrong))}, the language model "
                f"has layers 0 to {count - 1}: name some of these in `before`"
            )


@contextmanager
def looking(
    layers: nn.ModuleList, attentions: Mapping[str, MediaAttention], views: Mapping[str, View]
) -> Iterator[None]:
    """Let a language model look at media as long as this lasts; outside, it is as if the layers were not there.

    Args:
        layers: of the language model.
        attentions: by modality.
        views: by the same modalities, of the rows that the language model is given.
    """
    with ExitStack() as hooks:
        for name, attention in attentions.items():
            for number, layer in attention.layers.items():
                hook = _Hook(layer, views[name])
                handle = layers[int(number)].register_forward_pre_hook(hook, with_kwargs=True)
                hooks.callback(handle.remove)
        yield


class _Hook(NamedTuple):
    layer: nn.Module
    view: View

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (self._looked(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._looked(kwargs["hidden_states"])}

    def _looked(self, hidden: Tensor) -> Tensor:
        if len(hidden) > len(self.view.seen):  # one row that stands in for none
            return hidden
        real = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        text = Tokens(hidden.to(self.view.media.features.dtype), real)
        looked = self.layer(text, self.view.media, self.view.owner, self.view.at(hidden.shape[1]))
        return looked.features.to(hidden.dtype)

"""Connector: the interface of what brings the tokens of an encoder to a language model."""

from abc import abstractmethod
from collections.abc import Callable

from modules.parts import Part
from modules.tokens import Tokens


class Connector(Part):
    """Turns Tokens of an encoder into what a language model takes in.

    Attributes:
        in_dim: width of the encoder's tokens.
        out_dim: width of the language model's embeddings.
        group: tokens of the encoder that become one; None where what comes out keeps no places.
    """

    in_dim: int
    out_dim: int
    group: int | None = None

    @abstractmethod
    def forward(self, tokens: Tokens) -> Tokens:
        """Return Tokens (rows, fewer or as many tokens, out_dim); zero rows are as good as any other number."""


ConnectorSource = Part | Callable[[int, int], Connector]
"""In a config: a class of connector without its first two widths, which the models give; or `modules.parts.load`."""


def as_connector(source: ConnectorSource, modality: str, *, in_dim: int, out_dim: int) -> Connector:
    """Return the connector that a config names, built for an encoder and a language model or checked against them.

    Raises:
        ValueError: when it is another kind of part, or was made for other widths.
    """
    part = source if isinstance(source, Part) else source(in_dim, out_dim)
    if not isinstance(part, Connector):
        raise ValueError(
            f"the projector of {modality} was given a {type(part).__name__}, expected a connector such as Projector or "
            f"PerceiverResampler: name its class, or the folder of a part that is called projectors.{modality}"
        )
    if (part.in_dim, part.out_dim) != (in_dim, out_dim):
        raise ValueError(
            f"the {modality} projector goes from {part.in_dim} to {part.out_dim}, expected from {in_dim} (its encoder) "
            f"to {out_dim} (the language model): take all from one run, or leave the projector out to start a new one"
        )
    return part

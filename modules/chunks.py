"""Chunks: a large batch encoded in pieces, each forgotten and computed again when its gradient is due."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from modules.encoders.encoder import Encoder
from modules.tokens import Tokens


def encode_in_chunks(encoder: Encoder, inputs: Mapping[str, Tensor], chunks: int) -> Tokens:
    """Encode rows in equal pieces, so that the activations of one piece alone are in memory: GradCache's idea.

    The gradient is that of the whole batch (arXiv:2101.06983, section 3.1), since all that follows sees all rows; only
    Tokens are kept. Each piece runs a second time in the backward, with the random numbers of the first, so that
    dropout agrees. The number of pieces is fixed, however few the rows: under a sharding strategy every rank gathers
    weights as often as the others.

    Args:
        encoder: rows of its Tokens depend on their own inputs alone; statistics of a batch norm are a piece's.
        inputs: the encoder's, whose first dimension is rows.
        chunks: how many pieces; 1 keeps all activations.

    Returns:
        Tokens (rows, tokens, dim), as the encoder gives them for all rows at once.
    """
    if chunks == 1:
        return encoder(inputs)
    rows = len(next(iter(inputs.values())))
    pieces = []
    for index in torch.arange(rows).tensor_split(chunks):
        part = slice(int(index[0]), int(index[-1]) + 1) if len(index) else slice(0, 0)
        given = {name: tensor[part] for name, tensor in inputs.items()}
        pieces.append(checkpoint(encoder, given, use_reentrant=False))
    longest = max(piece.mask.shape[1] for piece in pieces)
    short = [longest - piece.mask.shape[1] for piece in pieces]
    features = [pad(piece.features, (0, 0, 0, missing)) for piece, missing in zip(pieces, short, strict=True)]
    masks = [pad(piece.mask, (0, missing)) for piece, missing in zip(pieces, short, strict=True)]
    return Tokens(torch.cat(features), torch.cat(masks))

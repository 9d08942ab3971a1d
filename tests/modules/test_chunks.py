"""Encoding in pieces: the same Tokens and gradients as at once, dropout replayed, any number of rows."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import set_checkpoint_early_stop

from modules.chunks import encode_in_chunks
from modules.encoders.encoder import Encoder
from modules.tokens import Tokens


class Trimmed(Encoder):
    """Cuts its rows to their longest, and remembers what it drew."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim = 4
        self.linear, self.dropout = nn.Linear(3, 4), nn.Dropout(dropout)
        self.drawn: list[torch.Tensor] = []

    @property
    def input_config(self):
        return {}

    def init_args(self):
        return {}

    def forward(self, inputs):
        mask = inputs["mask"]
        longest = int(mask.sum(1).max()) if len(mask) else 0
        features = self.dropout(self.linear(inputs["values"][:, :longest]).tanh())
        self.drawn.append(features.detach() == 0)
        return Tokens(features, mask[:, :longest])


def batch(rows: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(rows)
    lengths = torch.arange(rows) % 5 + 1
    return {"values": torch.randn(rows, 6, 3), "mask": torch.arange(6) < lengths[:, None]}


@pytest.mark.parametrize("chunks", [1, 2, 3, 7])
@pytest.mark.parametrize("rows", [0, 1, 5, 12])
def test_pieces_give_the_tokens_and_gradients_of_the_whole(rows, chunks):
    encoder, inputs = Trimmed(), batch(rows)
    outcomes = []
    for pieces in (1, chunks):
        encoder.zero_grad()
        tokens = encode_in_chunks(encoder, inputs, pieces)
        (tokens.features * tokens.mask.unsqueeze(2)).square().sum().backward()
        outcomes.append((tokens.pooled(), encoder.linear.weight.grad.clone()))
    torch.testing.assert_close(outcomes[0], outcomes[1])


def test_dropout_is_the_same_when_a_piece_is_computed_again():
    encoder, inputs = Trimmed(0.5), batch(12)
    with set_checkpoint_early_stop(False):
        encode_in_chunks(encoder, inputs, 3).features.sum().backward()
    first, second = encoder.drawn[:3], encoder.drawn[3:]
    assert len(second) == 3
    for drawn in first:
        assert any(drawn.shape == again.shape and torch.equal(drawn, again) for again in second)


def test_every_rank_runs_as_many_pieces_whatever_its_rows():
    for rows in (0, 1, 12):
        encoder = Trimmed()
        encode_in_chunks(encoder, batch(rows), 4)
        assert len(encoder.drawn) == 4

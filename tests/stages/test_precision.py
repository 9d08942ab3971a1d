"""HalfWeights: what is rounded to 16 bits, and that what is not computes beside it."""

import pytest
import torch
from torch import nn

from stages.precision import HalfWeights


class RootMeanSquare(nn.Module):
    """A norm of one's own, as language models have them."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, features):
        return self.weight * nn.functional.rms_norm(features, features.shape[-1:])


class Picture(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.ReLU())
        self.head = nn.Sequential(RootMeanSquare(4), nn.LayerNorm(4), nn.Linear(4, 2))
        self.scale = nn.Parameter(torch.tensor(2.659))

    def forward(self, pixels):
        return self.head(self.features(pixels).mean((2, 3))) * self.scale.exp()


@pytest.fixture
def picture():
    return HalfWeights("bf16-true", "cpu").convert_module(Picture())


def test_matrices_and_their_biases_are_rounded_and_norms_and_scales_are_not(picture):
    rounded = {name for name, value in picture.named_parameters() if value.dtype == torch.bfloat16}
    assert rounded == {"features.0.weight", "features.0.bias", "head.2.weight", "head.2.bias"}
    assert all(buffer.dtype != torch.bfloat16 for buffer in picture.buffers())


def test_every_norm_is_computed_beside_rounded_weights_and_has_a_gradient(picture):
    for pixels in (torch.randn(5, 3, 8, 8), torch.randn(5, 3, 8, 8).bfloat16()):
        picture.zero_grad()
        with HalfWeights("bf16-true", "cpu").forward_context():
            loss = picture(pixels).square().mean()
        loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in picture.parameters())


def test_a_module_that_was_converted_stays_as_it_is(picture):
    before = {name: value.data_ptr() for name, value in picture.named_parameters()}
    HalfWeights("bf16-true", "cpu").convert_module(picture)
    assert {name: value.data_ptr() for name, value in picture.named_parameters()} == before

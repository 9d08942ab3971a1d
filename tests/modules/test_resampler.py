"""Perceiver Resampler and gated cross-attention against the papers' formulas, written out for one head or two."""

import pytest
import torch
from torch.nn.functional import gelu, layer_norm

from modules import parts
from modules.gated_cross_attention import GatedCrossAttention, last_medium
from modules.resampler import PerceiverResampler
from modules.tokens import Tokens, full


def attend(attention, queries, keys, heads):
    """Write multi-head attention out, head by head."""
    width = queries.shape[1] // heads
    query = queries @ attention.query.weight.T
    key, value = keys @ attention.key.weight.T, keys @ attention.value.weight.T
    outcome = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weights = (query[:, part] @ key[:, part].T / width**0.5).softmax(1)
        outcome.append(weights @ value[:, part])
    return torch.cat(outcome, 1) @ attention.out.weight.T


def perceive(perceptron, x):
    norm, up, _, down = perceptron
    return gelu(layer_norm(x, x.shape[-1:], norm.weight, norm.bias) @ up.weight.T) @ down.weight.T


@pytest.fixture
def resampler():
    torch.manual_seed(0)
    return PerceiverResampler(in_dim=5, dim=6, num_latents=3, num_layers=2, num_heads=2)


def test_resampler_is_the_papers_formula(resampler):
    features = torch.randn(1, 4, 5)
    media, latents = resampler.linear(features[0]), resampler.latents
    for layer in resampler.layers:
        queries = layer.norm_latents(latents)
        latents = latents + attend(layer.attention, queries, torch.cat([layer.norm_media(media), queries]), 2)
        latents = latents + perceive(layer.perceptron, latents)
    resampled = resampler(full(features))
    torch.testing.assert_close(resampled.features[0], resampler.norm(latents), rtol=1e-5, atol=1e-6)
    assert resampled.mask.all()


def test_padding_does_not_change_the_resampled(resampler):
    features = torch.randn(2, 4, 5)
    padded = Tokens(
        torch.nn.functional.pad(features, (0, 0, 0, 2), value=torch.nan), torch.arange(6).expand(2, 6) < 4
    )
    torch.testing.assert_close(resampler(padded).features, resampler(full(features)).features)


def test_a_row_without_tokens_has_none_afterwards_and_zero_rows_are_a_batch(resampler):
    silent = resampler(Tokens(torch.randn(2, 4, 5), torch.tensor([[True] * 4, [False] * 4])))
    assert silent.mask.tolist() == [[True] * 3, [False] * 3] and not silent.features[1].any()
    none = resampler(full(torch.zeros(0, 4, 5)))
    none.features.sum().backward()
    assert none.features.shape == (0, 3, 6)
    assert all(
        parameter.grad is not None and not parameter.grad.any() for parameter in resampler.parameters()
    )


def test_resampler_rebuilds_itself_and_refuses_another_width(resampler, tmp_path):
    again = parts.load(str(parts.save(resampler, tmp_path / "resampler")))
    features = full(torch.randn(2, 4, 5))
    assert torch.equal(again(features).features, resampler(features).features)
    with pytest.raises(ValueError, match="tokens 7 wide, it was built for 5: set in_dim"):
        resampler(full(torch.zeros(1, 2, 7)))


# ---- gated cross-attention


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return GatedCrossAttention(dim=6, media_dim=5, num_heads=2)


@pytest.fixture
def conversation():
    """Two media of two tokens each; the text sees none, then the first, then the second."""
    marks = torch.tensor([[False, True, False, True, False]])
    return (
        full(torch.randn(1, 5, 6)),
        full(torch.randn(1, 4, 5)),
        torch.tensor([[0, 0, 1, 1]]),
        last_medium(marks),
    )


def open_gates(layer):
    torch.nn.init.constant_(layer.attention_gate, 0.5)
    torch.nn.init.constant_(layer.perceptron_gate, -0.3)


def test_last_medium_counts_marks_up_to_a_token():
    assert last_medium(torch.tensor([[False, True, False, True, False]])).tolist() == [[-1, 0, 0, 1, 1]]


def test_closed_gates_leave_the_text_as_it_was(layer, conversation):
    assert torch.equal(layer(*conversation).features, conversation[0].features)
    open_gates(layer)
    assert not torch.allclose(layer(*conversation).features, conversation[0].features)


def test_gated_cross_attention_is_the_papers_formula(layer, conversation):
    open_gates(layer)
    text, media, _, _ = conversation
    y = text.features[0]
    queries = layer.norm(y)
    looked = torch.cat(
        [
            torch.zeros(1, 6),
            attend(layer.attention, queries[1:3], media.features[0, :2], 2),
            attend(layer.attention, queries[3:], media.features[0, 2:], 2),
        ]
    )
    y = y + torch.tensor(0.5).tanh() * looked
    y = y + torch.tensor(-0.3).tanh() * perceive(layer.perceptron, y)
    torch.testing.assert_close(layer(*conversation).features[0], y, rtol=1e-5, atol=1e-6)


def test_a_token_sees_no_medium_but_its_own(layer, conversation):
    open_gates(layer)
    text, media, owner, seen = conversation
    changed = media.features.clone()
    changed[0, 2:] = 7
    before, after = layer(text, media, owner, seen), layer(text, full(changed), owner, seen)
    assert torch.equal(before.features[:, :3], after.features[:, :3])
    assert not torch.allclose(before.features[:, 3:], after.features[:, 3:])


def test_text_without_media_and_zero_rows_pass(layer):
    open_gates(layer)
    none = layer(
        full(torch.randn(2, 3, 6)),
        full(torch.zeros(2, 0, 5)),
        torch.zeros(2, 0, dtype=torch.int64),
        torch.full((2, 3), -1),
    )
    none.features.sum().backward()
    assert none.features.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    empty = layer(
        full(torch.zeros(0, 3, 6)),
        full(torch.zeros(0, 2, 5)),
        torch.zeros(0, 2, dtype=torch.int64),
        torch.zeros(0, 3, dtype=torch.int64),
    )
    assert empty.features.shape == (0, 3, 6)


def test_widths_and_shapes_that_do_not_match_are_refused(layer, conversation):
    text, media, owner, seen = conversation
    with pytest.raises(ValueError, match="text 5 and media 6 wide, the layer was built for 6 and 5"):
        layer(media, text, seen, owner)
    with pytest.raises(ValueError, match=r"owner \(1, 3\) and seen \(1, 5\), expected one number"):
        layer(text, media, owner[:, :3], seen)

"""Fusions against their formulas, worked out by hand for one sample."""

import pytest
import torch

from modules.fusion.concat import ConcatFusion
from modules.fusion.cross_attention import CrossAttentionFusion
from modules.fusion.early import EarlyFusion
from modules.fusion.gated import GatedFusion
from modules.fusion.late import LateFusion
from modules.fusion.latent import LatentFusion
from modules.fusion.weighted import WeightedFusion
from modules.tokens import full

WIDTHS = {"image": 5, "text": 4}


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(0)
    tokens = {name: full(torch.randn(1, 3, width, generator=generator)) for name, width in WIDTHS.items()}
    return tokens, {name: torch.zeros(1, dtype=torch.int64) for name in WIDTHS}, 1


def only(given, name):
    return {name: given[0][name]}, {name: given[1][name]}, 1


def test_fixed_lambda_is_the_weighted_sum(given):
    fusion = WeightedFusion(WIDTHS, 6, {"text": 0.3, "image": 0.7})
    image, text = (fusion.projections[name](given[0][name]) for name in ("image", "text"))
    fused = fusion(*given)
    torch.testing.assert_close(fused.tokens.features[:, 0], 0.7 * image + 0.3 * text)
    assert fused.weights["text"].item() == pytest.approx(0.3)
    alone = fusion(*only(given, "text"))
    torch.testing.assert_close(alone.tokens.features[:, 0], text)


def test_learned_lambda_begins_equal_and_is_a_softmax(given):
    fusion = WeightedFusion(WIDTHS, 6)
    assert fusion(*given).weights["image"].item() == pytest.approx(0.5)
    fusion.logits.data = torch.tensor([2.0, 1.0])  # image, text
    assert fusion(*given).weights["image"].item() == pytest.approx(1 / (1 + torch.e**-1))


def test_concat_is_one_matrix_over_the_concatenation(given):
    fusion = ConcatFusion(WIDTHS, 6)
    torch.nn.init.normal_(fusion.bias)
    pooled, matrices = [], []
    for name in ("image", "text"):
        projection = fusion.projections[name]
        pooled.append(projection.norm(given[0][name].features).mean(1))  # a query of zeros takes the mean
        matrices.append(projection.linear.weight)
    expected = torch.cat(pooled, 1) @ torch.cat(matrices, 1).T + fusion.bias
    torch.testing.assert_close(fusion(*given).tokens.features[:, 0], expected)


def test_late_is_the_mean_of_what_each_says_alone(given):
    fusion = LateFusion(WIDTHS, 6)
    image, text = (fusion(*only(given, name)).tokens.features for name in ("image", "text"))
    torch.testing.assert_close(fusion(*given).tokens.features, (image + text) / 2)


def test_two_gates_are_the_bimodal_unit(given):
    fusion = GatedFusion(WIDTHS, 6)
    image, text = (fusion.projections[name](given[0][name]) for name in ("image", "text"))
    logits = fusion.gate(torch.cat([image, text], 1))
    gate = (logits[:, :6] - logits[:, 6:]).sigmoid()
    expected = gate * image.tanh() + (1 - gate) * text.tanh()
    fused = fusion(*given)
    torch.testing.assert_close(fused.tokens.features[:, 0], expected)
    torch.testing.assert_close(fused.weights["image"], gate.mean(1))
    torch.testing.assert_close(fusion(*only(given, "text")).tokens.features[:, 0], text.tanh())


def test_early_is_torchs_encoder_over_the_joined_tokens(given):
    fusion = EarlyFusion(WIDTHS, 8, num_heads=2)
    torch.nn.init.normal_(fusion.entries.scale)
    entries = fusion.entries
    parts = [
        entries.scale[column] * entries.linears[name](entries.norms[name](given[0][name].features))
        + entries.kind[column]
        for column, name in enumerate(("image", "text"))
    ]
    expected = fusion.norm(fusion.encoder(torch.cat([fusion.summary.expand(1, 1, -1), *parts], 1)))
    torch.testing.assert_close(fusion(*given).tokens.features, expected, rtol=1e-5, atol=1e-6)


def test_a_tower_attends_to_the_others_alone(given):
    fusion = CrossAttentionFusion(WIDTHS, 8, num_layers=1, num_heads=2)
    joined = {
        name: fusion.entries.linears[name](fusion.entries.norms[name](given[0][name].features))
        + fusion.entries.kind[column]
        for column, name in enumerate(("image", "text"))
    }
    expected = []
    for own, other in (("image", "text"), ("text", "image")):
        tower = fusion.layers[0][own]
        query, key, value = (
            linear(each).unflatten(-1, (2, 4)).transpose(1, 2)
            for linear, each in (
                (tower.attention.query, tower.norm(joined[own])),
                (tower.attention.key, tower.norm_context(joined[other])),
                (tower.attention.value, tower.norm_context(joined[other])),
            )
        )
        weights = (query @ key.transpose(2, 3) / 2).softmax(-1)
        state = joined[own] + tower.attention.out((weights @ value).transpose(1, 2).flatten(2))
        expected.append(fusion.norm(state + tower.perceptron(state)))
    torch.testing.assert_close(fusion(*given).tokens.features, torch.cat(expected, 1), rtol=1e-5, atol=1e-6)


def test_latent_is_the_product_of_gaussians_and_the_prior(given):
    fusion = LatentFusion(WIDTHS, 6)
    experts = [fusion.posterior(name, given[0][name]) for name in ("image", "text")]
    precision = [1 / expert.log_variance.exp() for expert in experts]
    mean = sum(p * expert.mean for p, expert in zip(precision, experts, strict=True)) / (1 + sum(precision))
    fused = fusion(*given)
    torch.testing.assert_close(fused.tokens.features[:, 0], mean)
    share = [(p / (1 + sum(precision))).mean() for p in precision]
    assert fused.weights["text"].item() == pytest.approx((share[1] / sum(share)).item())

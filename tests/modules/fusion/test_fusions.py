"""Every fusion over every pattern of presence: what it must not depend on, what it returns, what it refuses."""

import itertools

import pytest
import torch

from modules import parts
from modules.fusion.concat import ConcatFusion
from modules.fusion.cross_attention import CrossAttentionFusion
from modules.fusion.early import EarlyFusion
from modules.fusion.gated import GatedFusion
from modules.fusion.late import LateFusion
from modules.fusion.latent import LatentFusion
from modules.fusion.perceiver import PerceiverFusion
from modules.fusion.quality_fusion import QualityFusion
from modules.fusion.weighted import WeightedFusion
from modules.tokens import Tokens

WIDTHS = {"text": 5, "image": 7, "audio": 4, "video": 6}
STEPS = {"text": 4, "image": 3, "audio": 5, "video": 2}
PATTERNS = [names for count in range(1, 5) for names in itertools.combinations(sorted(WIDTHS), count)]
SIZE = len(PATTERNS) + 1  # the last sample has nothing

FUSIONS = {
    "concat": lambda widths=WIDTHS: ConcatFusion(widths, 8),
    "late": lambda widths=WIDTHS: LateFusion(widths, 8, hidden=6),
    "weighted": lambda widths=WIDTHS: WeightedFusion(widths, 8),
    "fixed": lambda widths=WIDTHS: WeightedFusion(
        widths, 8, {name: 1.0 + number for number, name in enumerate(sorted(widths))}
    ),
    "gated": lambda widths=WIDTHS: GatedFusion(widths, 8),
    "early": lambda widths=WIDTHS: EarlyFusion(widths, 8, num_heads=2),
    "cross": lambda widths=WIDTHS: CrossAttentionFusion(widths, 8, num_heads=2),
    "perceiver": lambda widths=WIDTHS: PerceiverFusion(widths, 8, num_latents=3, num_heads=2),
    "latent": lambda widths=WIDTHS: LatentFusion(widths, 8, hidden=6),
    "by quality": lambda widths=WIDTHS: QualityFusion(widths, GatedFusion(widths, 8), floor=0),
}


@pytest.fixture(params=FUSIONS)
def fusion(request):
    torch.manual_seed(0)
    built = FUSIONS[request.param]().double()
    with torch.no_grad():
        for parameter in built.parameters():  # none at zero or one, where it could hide what it does
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built


def batch(seed=0):
    """Return tokens and rows of a batch that holds every pattern of four modalities once, and one sample of none."""
    generator = torch.Generator().manual_seed(seed)
    tokens, rows = {}, {}
    for name in WIDTHS:
        places = torch.tensor([place for place, names in enumerate(PATTERNS) if name in names])
        features = torch.randn(SIZE, STEPS[name], WIDTHS[name], generator=generator, dtype=torch.float64)
        lengths = 1 + torch.arange(SIZE) % STEPS[name]
        mask = torch.arange(STEPS[name]) < lengths.unsqueeze(1)
        tokens[name], rows[name] = Tokens(features[places], mask[places]), places
    return tokens, rows


def real(fused, row):
    """Return the real tokens of one sample."""
    return fused.tokens.features[row][fused.tokens.mask[row]]


def same(one, other, places=None):
    """Hold that samples `places` of the first are samples 0, 1, … of the second: tokens, weights."""
    places = range(len(other.tokens)) if places is None else places
    for row, place in enumerate(places):
        torch.testing.assert_close(real(one, place), real(other, row), rtol=1e-9, atol=1e-9)
        for name, weights in one.weights.items():
            torch.testing.assert_close(weights[place], other.weights[name][row], rtol=1e-9, atol=1e-9)


def test_all_patterns_give_one_row_a_sample_and_finite_tokens(fusion):
    fused = fusion(*batch(), SIZE)
    assert fused.tokens.features.shape == (SIZE, fused.tokens.mask.shape[1], 8)
    assert fused.tokens.features.isfinite().all()
    assert fused.tokens.mask[:-1].any(1).all()


def test_weights_are_zero_where_absent_and_add_up_to_one_elsewhere(fusion):
    fused = fusion(*batch(), SIZE)
    assert list(fused.weights) == sorted(WIDTHS)
    for place, names in enumerate(PATTERNS):
        for name in WIDTHS:
            assert (fused.weights[name][place] > 0) == (name in names)
    total = torch.stack(list(fused.weights.values())).sum(0)
    torch.testing.assert_close(total[:-1], torch.ones(SIZE - 1, dtype=torch.float64))


def test_a_sample_of_nothing_has_no_real_token_and_weights_of_zero(fusion):
    fused = fusion(*batch(), SIZE)
    assert not fused.tokens.mask[-1].any() and not fused.tokens.features[-1].any()
    assert not fused.tokens.pooled()[-1].any()
    assert all(weights[-1] == 0 for weights in fused.weights.values())


def test_padding_does_not_change_what_comes_out(fusion):
    tokens, rows = batch()
    padded = {}
    for name, each in tokens.items():
        features = torch.nn.functional.pad(each.features, (0, 0, 0, 3))
        mask = torch.nn.functional.pad(each.mask, (0, 3))
        padded[name] = Tokens(features.masked_fill(~mask.unsqueeze(-1), torch.nan), mask)
    same(fusion(padded, rows, SIZE), fusion(tokens, rows, SIZE))


def test_the_order_of_modalities_does_not_change_what_comes_out(fusion):
    tokens, rows = batch()
    for names in (sorted(tokens), sorted(tokens, reverse=True)):
        turned = fusion({name: tokens[name] for name in names}, rows, SIZE)
        assert torch.equal(turned.tokens.features, fusion(tokens, rows, SIZE).tokens.features)


@pytest.mark.parametrize("name", FUSIONS)
def test_the_order_of_widths_does_not_change_what_is_built(name):
    built = []
    for names in (sorted(WIDTHS), sorted(WIDTHS, reverse=True)):
        torch.manual_seed(0)
        built.append(FUSIONS[name]({key: WIDTHS[key] for key in names})(*_single(batch()), SIZE))
    assert torch.equal(built[0].tokens.features, built[1].tokens.features)


def _single(given):
    tokens, rows = given
    return {name: Tokens(each.features.float(), each.mask) for name, each in tokens.items()}, rows


def test_the_order_of_rows_does_not_change_what_comes_out(fusion):
    tokens, rows = batch()
    turned = {name: Tokens(each.features.flip(0), each.mask.flip(0)) for name, each in tokens.items()}
    same(
        fusion(turned, {name: each.flip(0) for name, each in rows.items()}, SIZE), fusion(tokens, rows, SIZE)
    )


def test_a_sample_by_itself_is_as_among_others(fusion):
    tokens, rows = batch()
    together = fusion(tokens, rows, SIZE)
    for place, names in enumerate(PATTERNS):
        own = {name: rows[name] == place for name in names}
        alone = fusion(  # the modalities that it lacks are not even named
            {name: Tokens(tokens[name].features[own[name]], tokens[name].mask[own[name]]) for name in names},
            {name: torch.zeros(1, dtype=torch.int64) for name in names},
            1,
        )
        same(together, alone, [place])


def test_a_row_without_a_real_token_is_as_absent(fusion):
    tokens, rows = batch()
    silent = tokens["text"].mask.clone()
    silent[0] = False
    place = rows["text"][0]
    heard = fusion({**tokens, "text": Tokens(tokens["text"].features, silent)}, rows, SIZE)
    without = Tokens(tokens["text"].features[1:], tokens["text"].mask[1:])
    same(heard, fusion({**tokens, "text": without}, {**rows, "text": rows["text"][1:]}, SIZE))
    assert heard.weights["text"][place] == 0


@pytest.mark.parametrize("missing", [(), ("text",), tuple(WIDTHS)])
@pytest.mark.parametrize("size", [0, 3])
def test_zero_rows_give_gradients_of_zero_to_every_parameter(missing, size, fusion):
    tokens, rows = batch()
    none = {
        name: Tokens(each.features[:0], each.mask[:0]) for name, each in tokens.items() if name not in missing
    }
    fused = fusion(none, {name: rows[name][:0] for name in none}, size)
    assert len(fused.tokens) == size and all(len(each) == size for each in fused.weights.values())
    fused.tokens.pooled().sum().backward()
    used = [p.grad for name, p in fusion.named_parameters() if not name.startswith("decoders.")]
    assert all(gradient is not None and not gradient.any() for gradient in used)


def test_every_parameter_and_every_modality_gets_a_gradient(fusion):
    tokens, rows = batch()
    leaves = {name: each.features.requires_grad_() for name, each in tokens.items()}
    pooled = fusion(tokens, rows, SIZE).tokens.pooled()
    (pooled * torch.randn(pooled.shape, dtype=pooled.dtype)).sum().backward()
    for name, leaf in leaves.items():
        assert leaf.grad.isfinite().all() and leaf.grad[tokens[name].mask].any()
        assert not leaf.grad[~tokens[name].mask].any()
    for name, parameter in fusion.named_parameters():
        if not name.startswith("decoders."):  # those of the latent fusion serve its objective
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


def test_training_and_inference_give_the_same(fusion):
    tokens, rows = batch()
    quality = {name: torch.linspace(0.1, 1, len(each), dtype=torch.float64) for name, each in tokens.items()}
    trained = fusion(tokens, rows, SIZE, quality)
    with torch.inference_mode():
        same(fusion.eval()(tokens, rows, SIZE, quality), trained)


def test_bfloat16_autocast_stays_near_float32(fusion):
    fusion.float()
    tokens, rows = _single(batch())
    quality = {name: torch.linspace(0, 1, len(each)) for name, each in tokens.items()}
    with torch.autocast("cpu", torch.bfloat16):
        low = fusion(tokens, rows, SIZE, quality)
    full = fusion(tokens, rows, SIZE, quality)
    torch.testing.assert_close(low.tokens.pooled().float(), full.tokens.pooled(), rtol=0.1, atol=0.1)


def test_a_fusion_rebuilds_itself_from_its_folder(fusion, tmp_path):
    fusion.float()
    again = parts.load(str(parts.save(fusion, tmp_path / "fusion")))
    given = _single(batch())
    assert torch.equal(again(*given, SIZE).tokens.features, fusion(*given, SIZE).tokens.features)


# ---- quality


def test_quality_of_one_changes_nothing(fusion):
    tokens, rows = batch()
    ones = {name: torch.ones(len(each), dtype=torch.float64) for name, each in tokens.items()}
    same(fusion(tokens, rows, SIZE, ones), fusion(tokens, rows, SIZE))


def test_quality_of_zero_is_as_absent(fusion):
    tokens, rows = batch()
    scores = {"text": (torch.arange(len(tokens["text"])) % 2).double()}
    kept = scores["text"] > 0
    fewer = {**tokens, "text": Tokens(tokens["text"].features[kept], tokens["text"].mask[kept])}
    same(fusion(tokens, rows, SIZE, scores), fusion(fewer, {**rows, "text": rows["text"][kept]}, SIZE))


def test_less_quality_is_less_weight(fusion):
    tokens, rows = batch()
    place = PATTERNS.index(tuple(sorted(WIDTHS)))
    low = (torch.ones(len(tokens["text"]), dtype=torch.float64) * 0.01).requires_grad_()
    fused = fusion(tokens, rows, SIZE, {"text": low})
    assert 0 < fused.weights["text"][place] < 0.1 * fusion(tokens, rows, SIZE).weights["text"][place]
    fused.tokens.pooled().square().sum().backward()
    assert low.grad.isfinite().all() and low.grad.any()


# ---- what is refused


def test_a_modality_it_was_not_built_for_is_refused(fusion):
    tokens, rows = batch()
    with pytest.raises(ValueError, match=r"tokens of radar, it was built for audio, image, text, video: add"):
        fusion({**tokens, "radar": tokens["text"]}, {**rows, "radar": rows["text"]}, SIZE)


def test_another_width_is_refused(fusion):
    tokens, rows = batch()
    with pytest.raises(ValueError, match=r"text 7 wide, it was built for 5: set widths\.text"):
        fusion({"text": tokens["image"]}, {"text": rows["image"]}, SIZE)


@pytest.mark.parametrize("rows, found", [({}, "none"), ({"text": torch.arange(3)}, r"\(3,\)")])
def test_rows_that_do_not_match_are_refused(rows, found, fusion):
    with pytest.raises(
        ValueError, match=rf"8 rows of text, and samples they belong to: {found}; expected \(8,\)"
    ):
        fusion({"text": batch()[0]["text"]}, rows, SIZE)


def test_two_rows_of_a_sample_and_a_sample_out_of_the_batch_are_refused(fusion):
    text = batch()[0]["text"]
    with pytest.raises(
        ValueError, match="8 rows of text belong to 7 samples: expected one row a sample; join"
    ):
        fusion({"text": text}, {"text": torch.tensor([0, 1, 2, 3, 4, 5, 6, 6])}, SIZE)
    with pytest.raises(ValueError, match="text belong to samples 0 to 7, the batch has 7: expected 0 to 6"):
        fusion({"text": text}, {"text": torch.arange(8)}, 7)


def test_quality_that_does_not_match_is_refused(fusion):
    tokens, rows = batch()
    with pytest.raises(ValueError, match=r"quality of text is \(3,\), expected one for each row: \(8,\)"):
        fusion(tokens, rows, SIZE, {"text": torch.ones(3)})
    with pytest.raises(ValueError, match="was given quality of radar"):
        fusion(tokens, rows, SIZE, {"radar": torch.ones(8)})


@pytest.mark.parametrize(
    "build, message",
    [
        (
            lambda: CrossAttentionFusion({"text": 5}, 8),
            "joins 2 modalities or more, was given widths of text",
        ),
        (lambda: ConcatFusion({}, 8), "joins 1 modalities or more, was given widths of none"),
        (lambda: GatedFusion({"text": 0}, 8), r"widths must be 1 or more, .* \{'text': 0\}"),
        (
            lambda: WeightedFusion(WIDTHS, 8, {"text": 1.0}),
            "lambdas names text, the modalities are audio, image",
        ),
        (
            lambda: WeightedFusion({"text": 5}, 8, {"text": 0.0}),
            r"lambdas must be above 0, found \{'text': 0.0\}",
        ),
        (lambda: EarlyFusion(WIDTHS, 9, num_heads=2), "a width of 9"),
        (lambda: EarlyFusion(WIDTHS, 8, num_layers=0), "0 layers"),
        (lambda: CrossAttentionFusion(WIDTHS, 8, num_layers=0), "num_layers is 0"),
        (lambda: CrossAttentionFusion(WIDTHS, 8, num_heads=3), "8 does not divide into 3 heads"),
        (lambda: PerceiverFusion(WIDTHS, 8, num_latents=0), "0 latents and 2 layers"),
    ],
)
def test_what_cannot_be_built_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_tokens_of_a_modality_are_told_apart_where_the_fusion_keeps_them(fusion):
    tokens, rows = batch()
    fused = fusion(tokens, rows, SIZE)
    if fusion.num_leading is None:
        assert fused.by_modality == {}
        return
    assert set(fused.by_modality) == set(WIDTHS)
    for name, found in fused.by_modality.items():
        assert found.features.shape == (SIZE, STEPS[name], fusion.dim)
        present = found.mask.any(1).nonzero().squeeze(1)
        assert torch.equal(present, rows[name])
        assert torch.equal(found.mask[present], tokens[name].mask)
    joined = torch.cat([fused.by_modality[name].features for name in sorted(WIDTHS)], 1)
    assert torch.equal(joined, fused.tokens.features[:, fusion.num_leading :])


def test_a_token_keeps_its_place_through_the_fusion(fusion):
    """What a token becomes follows its own features most: those of two tokens exchanged, so are the outcomes."""
    if fusion.num_leading is None:
        return
    tokens, rows = batch()
    first = fusion(tokens, rows, SIZE).by_modality["text"].features
    features = tokens["text"].features[:, [1, 0, 2, 3]]
    mask = tokens["text"].mask[:, [1, 0, 2, 3]]
    second = fusion({**tokens, "text": Tokens(features, mask)}, rows, SIZE).by_modality["text"].features
    torch.testing.assert_close(second[:, [1, 0, 2, 3]], first)

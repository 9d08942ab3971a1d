"""Selection by quality: what is dropped, what stays, and that an estimator learns which modality to trust."""

import pytest
import torch

from modules.fusion.quality import QualityEstimator, QualitySelection
from modules.fusion.weighted import WeightedFusion
from modules.tokens import Tokens, full

ROWS = {"image": torch.tensor([0, 1, 3]), "text": torch.tensor([0, 1, 2, 3])}
SCORES = {"image": torch.tensor([0.9, 0.1, 0.1]), "text": torch.tensor([0.1, 0.8, 0.05, 0.15])}


def test_what_is_below_the_floor_is_dropped_but_for_the_best():
    kept = QualitySelection(floor=0.2)(SCORES, ROWS, 4)
    assert kept["image"].tolist() == pytest.approx([0.9, 0, 0])
    assert kept["text"].tolist() == pytest.approx([0, 0.8, 0.05, 0.15])


def test_a_sample_keeps_as_many_as_it_was_told():
    kept = QualitySelection(floor=0.2, at_least=2)(SCORES, ROWS, 4)
    assert all(torch.equal(kept[name], SCORES[name]) for name in SCORES)


def test_the_order_of_modalities_does_not_decide_between_equals():
    rows = {name: torch.tensor([0]) for name in ("audio", "image", "text")}
    scores = {name: torch.tensor([0.1]) for name in rows}
    select = QualitySelection(floor=0.5)
    turned = select({name: scores[name] for name in ("text", "image", "audio")}, rows, 1)
    assert turned == select(scores, rows, 1)
    assert sum(float(score) > 0 for score in turned.values()) == 1


def test_zero_rows_and_no_modality_are_nothing_to_select():
    select = QualitySelection()
    assert select({}, {}, 3) == {}
    empty = select({"text": torch.zeros(0)}, {"text": torch.zeros(0, dtype=torch.int64)}, 0)
    assert empty["text"].shape == (0,)


def test_an_estimate_does_not_depend_on_padding():
    estimator = QualityEstimator({"text": 4})
    torch.nn.init.normal_(estimator.linears["text"].weight)
    features = torch.randn(2, 3, 4)
    padded = Tokens(
        torch.nn.functional.pad(features, (0, 0, 0, 2), value=torch.nan), torch.arange(5).expand(2, 5) < 3
    )
    torch.testing.assert_close(estimator({"text": padded}), estimator({"text": full(features)}))


def test_an_estimator_learns_which_modality_to_trust_and_selection_drops_the_other():
    torch.manual_seed(0)
    fusion = WeightedFusion({"image": 8, "text": 8}, 4)
    estimator = QualityEstimator(fusion.widths)
    optimizer = torch.optim.Adam([*fusion.parameters(), *estimator.parameters()], lr=0.02)
    each = {name: torch.arange(64) for name in ("image", "text")}

    def drawn():
        """Of every sample one modality is broken: it shows another class, and a mark by which that can be told."""
        answer, broken = torch.randint(4, (64,)), torch.rand(64, 1) < 0.5
        right = torch.cat([3 * torch.eye(4)[answer], torch.zeros(64, 4)], 1)
        wrong = torch.cat([3 * torch.eye(4)[torch.randint(4, (64,))], torch.ones(64, 4)], 1)
        image, text = torch.where(broken, wrong, right), torch.where(broken, right, wrong)
        return {"image": full(image.unsqueeze(1)), "text": full(text.unsqueeze(1))}, answer, broken.squeeze(1)

    for _ in range(200):
        tokens, answer, _ = drawn()
        fused = fusion(tokens, each, 64, estimator(tokens))
        loss = torch.nn.functional.cross_entropy(5 * fused.tokens.pooled(), answer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens, answer, broken = drawn()
    scores = estimator(tokens)
    assert scores["image"][broken].mean() < 0.3 * scores["image"][~broken].mean()
    selected = fusion(tokens, each, 64, QualitySelection(floor=0.2)(scores, each, 64))
    right = (selected.tokens.pooled().argmax(1) == answer).float().mean()
    assert (
        right > (fusion(tokens, each, 64).tokens.pooled().argmax(1) == answer).float().mean() and right > 0.9
    )


@pytest.mark.parametrize(
    "act, message",
    [
        (lambda: QualitySelection(floor=1.5), r"floor is 1\.5, expected from 0 to 1"),
        (lambda: QualitySelection(at_least=0), "at_least is 0: a sample must keep one"),
        (
            lambda: QualitySelection()(SCORES, {}, 4),
            "3 scores and 0 rows of image: expected as many; give each row",
        ),
        (
            lambda: QualityEstimator({"text": 4})({"image": full(torch.zeros(1, 1, 4))}),
            "given image, it was built for text: add the width of each",
        ),
    ],
)
def test_what_cannot_work_is_refused(act, message):
    with pytest.raises(ValueError, match=message):
        act()

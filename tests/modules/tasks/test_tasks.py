"""Tasks over every fusion: what their losses are, what they do not depend on, what they refuse."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from modules import parts
from modules.bio import IGNORED
from modules.fusion.concat import ConcatFusion
from modules.fusion.cross_attention import CrossAttentionFusion
from modules.fusion.early import EarlyFusion
from modules.fusion.gated import GatedFusion
from modules.fusion.late import LateFusion
from modules.fusion.latent import LatentFusion
from modules.fusion.perceiver import PerceiverFusion
from modules.fusion.weighted import WeightedFusion
from modules.tasks.classification import Classification
from modules.tasks.regression import Regression
from modules.tasks.tagging import Tagging
from modules.tasks.task import Truth
from modules.tokens import Tokens

WIDTHS = {"image": 6, "text": 5}
FUSIONS = {
    "concat": lambda: ConcatFusion(WIDTHS, 8),
    "late": lambda: LateFusion(WIDTHS, 8, hidden=6),
    "weighted": lambda: WeightedFusion(WIDTHS, 8),
    "gated": lambda: GatedFusion(WIDTHS, 8),
    "early": lambda: EarlyFusion(WIDTHS, 8, num_heads=2),
    "cross": lambda: CrossAttentionFusion(WIDTHS, 8, num_heads=2),
    "perceiver": lambda: PerceiverFusion(WIDTHS, 8, num_latents=3, num_heads=2),
    "latent": lambda: LatentFusion(WIDTHS, 8, hidden=6),
}
KEEPING = ["cross", "early"]
CLASSES = ["yes", "no", "maybe"]
LABELS = Truth({"label": torch.tensor([0, 2, 1, 1])}, torch.arange(4))
NUMBERS = Truth({"number": torch.tensor([10.0, 12.0, 9.0, 11.0])}, torch.arange(4))


def tokens(padding=0):
    """Sample 0 has both, 1 the picture alone, 2 the text alone, 3 nothing."""
    generator = torch.Generator().manual_seed(0)
    found, rows = {}, {"image": torch.tensor([0, 1]), "text": torch.tensor([0, 2])}
    for name, width in WIDTHS.items():
        features = torch.randn(2, 4, width, generator=generator)
        mask = torch.tensor([[True] * 4, [True, True, True, False]])
        found[name] = Tokens(
            torch.nn.functional.pad(features, (0, 0, 0, padding), value=9.0),
            torch.nn.functional.pad(mask, (0, padding)),
        )
    return found, rows


def tags(padding=0):
    """Tags of the two texts: three words and two, the last of which is cut off."""
    found = torch.full((2, 3 + padding), IGNORED)
    found[0, :3], found[1, :2] = torch.tensor([1, 2, 0]), torch.tensor([3, 4])
    first = torch.full((2, 3 + padding), -1)
    first[0, :3], first[1, :1] = torch.tensor([0, 2, 3]), torch.tensor([1])
    return Truth({"tags": found, "first_token": first}, torch.tensor([0, 2]))


def judged(task, fusion, truth, padding=0):
    return task.eval()(fusion.eval()(*tokens(padding), 4), truth)


@pytest.fixture(params=FUSIONS)
def fusion(request):
    torch.manual_seed(0)
    return FUSIONS[request.param]()


@pytest.mark.parametrize(
    "build", [lambda: Classification(8, CLASSES), lambda: Regression(8, mean=10.0, std=2.0)]
)
def test_every_sample_is_answered_whatever_it_has_and_padding_changes_nothing(build, fusion):
    task = build()
    truth = LABELS if task.name == "classification" else NUMBERS
    found, padded = judged(task, fusion, truth), judged(task, fusion, truth, padding=3)
    assert found.count == 4 and len(found.answers[0]) == 4
    torch.testing.assert_close(found.total, padded.total)
    torch.testing.assert_close(found.answers[0], padded.answers[0])


@pytest.mark.parametrize("name", KEEPING)
def test_tags_do_not_depend_on_padding_of_tokens_or_words(name):
    torch.manual_seed(0)
    fusion, task = FUSIONS[name](), Tagging(8, ["A", "B"])
    found, padded = judged(task, fusion, tags()), judged(task, fusion, tags(2), padding=3)
    assert found.count == padded.count == 4  # of five words, one is cut off
    torch.testing.assert_close(found.total, padded.total)
    assert torch.equal(found.answers[0], padded.answers[0][:, :3])


@pytest.mark.parametrize(
    ("task", "truth"),
    [
        (Classification(8, CLASSES), Truth({"label": LABELS.inputs["label"][:0]}, torch.arange(0))),
        (Regression(8), Truth({"number": torch.zeros(0)}, torch.arange(0))),
        (Tagging(8, ["A"]), Truth(dict.fromkeys(["tags", "first_token"], torch.zeros(0, 0).long()), torch.arange(0))),
    ],
)  # fmt: skip
def test_nothing_asked_has_a_loss_of_zero_and_gradients_of_zeros(task, truth):
    fusion = FUSIONS["early"]()
    none = {name: Tokens(torch.zeros(0, 1, width), torch.ones(0, 1).bool()) for name, width in WIDTHS.items()}
    found = task(fusion(none, dict.fromkeys(WIDTHS, torch.arange(0)), 0), truth)
    assert (found.total, found.count) == (0, 0)
    found.total.backward()
    assert all((p.grad == 0).all() for p in [*task.parameters(), *fusion.parameters()])
    tally = task.tally()
    tally.update(*found.answers)
    assert tally.scores().count == 0


def test_over_late_fusion_logits_are_the_mean_of_what_each_modality_says():
    torch.manual_seed(0)
    fusion, task = FUSIONS["late"](), Classification(8, CLASSES)
    found, rows = tokens()
    both = task.logits(fusion(found, rows, 4))[0]
    alone = [task.logits(fusion({name: found[name]}, {name: rows[name]}, 4))[0] for name in WIDTHS]
    torch.testing.assert_close(both, torch.stack(alone).mean(0))


def test_a_sample_without_anything_is_told_how_common_each_class_is():
    task = Classification(8, CLASSES)
    logits = task.logits(FUSIONS["gated"]()(*tokens(), 4))
    assert torch.equal(logits[3], task.linear.bias)


def test_class_weights_are_those_of_torch():
    torch.manual_seed(0)
    fusion, task = FUSIONS["gated"](), Classification(8, CLASSES, class_weights={"no": 5.0})
    found = judged(task, fusion, LABELS)
    logits = task.logits(fusion(*tokens(), 4))
    expected = cross_entropy(logits, LABELS.inputs["label"], weight=torch.tensor([1.0, 5.0, 1.0]))
    torch.testing.assert_close(found.total / found.count, expected)


def test_a_number_is_learnt_in_units_of_its_spread_and_answered_in_its_own():
    task = Regression(8, mean=10.0, std=2.0)
    torch.nn.init.zeros_(task.linear.weight)
    torch.nn.init.constant_(task.linear.bias, 0.5)
    found = judged(task, FUSIONS["gated"](), NUMBERS)
    assert found.answers[0].tolist() == [11.0] * 4
    assert found.total.item() == pytest.approx((0.5**2) * 2 + 1 + 0)


class TestTagging:
    def test_a_word_is_tagged_by_its_first_token_alone(self):
        """With a map that reads one feature, the loss is the cross-entropy of the features at the first tokens."""
        torch.manual_seed(0)
        fusion, task = FUSIONS["cross"](), Tagging(8, ["A", "B"])
        fused = fusion(*tokens(), 4)
        text = fused.by_modality["text"].features
        places = [(0, 0), (0, 2), (0, 3), (2, 1)]
        logits = task.linear(torch.stack([text[sample, token] for sample, token in places]))
        expected = cross_entropy(logits, torch.tensor([1, 2, 0, 3]), reduction="sum")
        torch.testing.assert_close(task(fused, tags()).total, expected)

    def test_the_picture_changes_the_tags(self):
        torch.manual_seed(0)
        fusion, task = FUSIONS["cross"](), Tagging(8, ["A", "B"])
        found, rows = tokens()
        with_picture = task.logits(fusion(found, rows, 4), tags())[0]
        found["image"] = Tokens(found["image"].features.flip(2), found["image"].mask)
        other = task.logits(fusion(found, rows, 4), tags())[0]
        assert not torch.allclose(with_picture[0], other[0])  # has a picture
        torch.testing.assert_close(with_picture[1], other[1])  # has none

    def test_a_word_without_a_token_is_answered_with_outside_and_still_counts(self):
        task = Tagging(8, ["A", "B"])
        torch.nn.init.constant_(task.linear.bias, 0.0)
        with torch.no_grad():
            task.linear.bias[3] = 100.0
        found = judged(task, FUSIONS["cross"](), tags())
        said, right = found.answers
        assert said.tolist() == [[3, 3, 3], [3, 0, 0]]
        assert right.tolist() == [[1, 2, 0], [3, 4, IGNORED]]

    def test_text_that_was_masked_away_has_no_loss(self):
        task, (found, rows) = Tagging(8, ["A", "B"]), tokens()
        kept = {"text": torch.tensor([0])}
        found["text"] = Tokens(found["text"].features[:1], found["text"].mask[:1])
        judged = task(FUSIONS["early"]()(found, {**rows, **kept}, 4), tags())
        assert judged.count == 3
        assert judged.answers[0][1].tolist() == [0, 0, 0]

    def test_a_fusion_that_drops_the_places_of_tokens_is_refused(self, text_encoder, fusion):
        encoders, task = {"text": text_encoder}, Tagging(8, ["A"])
        if fusion.num_leading is None:
            with pytest.raises(ValueError, match=r"does not keep the tokens.*EarlyFusion or CrossAttention"):
                task.check(encoders, fusion)
        else:
            task.check(encoders, fusion)

    def test_no_text_encoder_one_that_pools_and_one_of_something_else_are_refused(
        self, tokenizer_path, image_encoder
    ):
        from modules.encoders.huggingface import TextEncoder

        fusion, task = FUSIONS["early"](), Tagging(8, ["A"])
        with pytest.raises(ValueError, match=r"tags the words of 'text', the encoders are image: add one"):
            task.check({"image": image_encoder}, fusion)
        with pytest.raises(ValueError, match="needs an encoder of texts"):
            task.check({"text": image_encoder}, fusion)
        gpt2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}
        last = TextEncoder(config=gpt2, tokenizer=tokenizer_path, max_tokens=16, last_only=True)
        with pytest.raises(ValueError, match=r"gives 1 token\(s\) for 3.*last_only"):
            task.check({"text": last}, fusion)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Classification(8, ["one"]), "expected two or more"),
        (lambda: Classification(8, ["a", "a"]), "each once"),
        (lambda: Classification(8, ["a", "b"], {"c": 1.0}), r"class_weights has \{'c': 1.0\}"),
        (lambda: Classification(8, ["a", "b"], {"a": 0.0}), "weights above 0"),
        (lambda: Tagging(8, []), "expected one or more"),
        (lambda: Regression(8, std=0.0), "more than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize(
    "task",
    [
        Classification(8, CLASSES, {"no": 2.0}, 0.1),
        Regression(8, mean=3.0, std=2.0, field="age", low=0.0),
        Tagging(8, ["A"], modality="caption"),
    ],
)
def test_a_task_rebuilds_itself(task, tmp_path):
    loaded = parts.load(str(parts.save(task, tmp_path / "task")))
    assert loaded.init_args() == task.init_args()
    torch.testing.assert_close(loaded.state_dict(), task.state_dict())

"""Matching, completion and several objectives at once: what they judge, and what leaves them unmoved."""

import copy
import itertools

import pytest
import torch
from torch import nn

from modules import parts
from modules.fusion.fusion import Fusion, one_token
from modules.objectives.aligned import Aligned, shared_rows
from modules.objectives.completion import Completion
from modules.objectives.contrastive import InfoNCE, SigLIP
from modules.objectives.draws import Draws
from modules.objectives.matching import Matching, hard_negatives
from modules.objectives.temporal import TemporalAlignment
from modules.objectives.weighted import GradientBalanced, Weighted
from modules.tokens import full

MODALITIES = ["audio", "image", "text", "video"]


class Joined(Fusion):
    """A fusion to test with: the product of what the modalities' tokens are mapped to by one matrix."""

    def __init__(self, width=8, dim=6):
        super().__init__(dict.fromkeys(MODALITIES, width), dim)
        self.linear = nn.Linear(width, dim)

    def fuse(self, tokens, quality):
        vectors = torch.stack([self.linear(each.pooled()) for each in tokens.values()])
        present = quality.T.unsqueeze(-1) > 0
        return one_token(torch.where(present, vectors, 1).prod(0), quality), quality


def test_shared_rows_are_those_of_the_same_samples():
    first, second = shared_rows(torch.tensor([4, 0, 2]), torch.tensor([2, 3, 4]), 5)
    assert first.tolist() == [0, 2] and second.tolist() == [2, 0]


# ---- matching


def test_matching_asks_of_true_pairs_and_of_two_false_ones_each(aligned):
    batch = aligned({"image": [0, 2, 3, 5], "text": [1, 2, 3, 5]})  # they share 2, 3 and 5
    asked = {}
    objective = Matching(Joined()).double()
    objective.judge = lambda questions, answer: asked.update(questions, answer=answer) or torch.zeros(())
    objective(batch)
    assert asked["answer"].tolist() == [1, 1, 1] + [0] * 6
    image, text = batch.tokens["image"].features[1:], batch.tokens["text"].features[1:]
    samples = {
        name: [int((rows == row).flatten(1).all(1).nonzero()) for row in asked[name].features]
        for name, rows in (("image", image), ("text", text))
    }
    pairs = list(zip(samples["image"], samples["text"], strict=True))
    assert pairs[:3] == [(0, 0), (1, 1), (2, 2)]
    assert all(one != other for one, other in pairs[3:])
    assert [one for one, _ in pairs[3:6]] == [0, 1, 2] and [other for _, other in pairs[6:]] == [0, 1, 2]


def test_hard_negatives_follow_the_softmax_of_the_similarities():
    logits = torch.tensor([[9.0, 1.0, 0.0], [0.0, 9.0, 0.0], [2.0, -80.0, 9.0]])
    generator = torch.Generator().manual_seed(0)
    luck = torch.rand(4000, 3, 3, generator=generator, dtype=torch.float64)
    drawn = torch.stack([hard_negatives(logits, uniform) for uniform in luck])
    assert (drawn != torch.arange(3)).all()
    assert (drawn[:, 0] == 1).double().mean() == pytest.approx(torch.e / (1 + torch.e), abs=0.03)
    assert (drawn[:, 1] == 0).double().mean() == pytest.approx(0.5, abs=0.03)
    assert (drawn[:, 2] == 0).all()


def test_the_same_seed_and_step_draw_the_same_also_after_a_restart(aligned):
    batch = aligned({"image": list(range(6)), "text": list(range(6))})
    first = Matching(Joined(), logit_scale=1.0).double()
    first(batch)
    resumed = Matching(Joined(), logit_scale=1.0).double()
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    assert first(batch) == resumed(batch)
    draws = [Draws(seed).uniform(3, 1) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_steps_draw_anew_in_training_and_alike_in_evaluation():
    draws = Draws(0)
    assert not torch.equal(draws.uniform(3, 1), draws.uniform(3, 1))
    draws.eval()
    assert torch.equal(draws.uniform(20, 5)[:, :3], draws.uniform(20, 3))
    assert torch.equal(draws.normal(20, 5)[:, :3], draws.normal(20, 3))
    assert torch.equal(draws.uniform(3, 1), draws.uniform(3, 1))


@pytest.mark.parametrize("ranks", [2, 3, 4, 6])
def test_ranks_draw_for_their_shares_what_one_draws_for_all(ranks, monkeypatch):
    whole = Draws(5).normal(48, 3)
    shares = []
    for rank in range(ranks):
        monkeypatch.setattr("modules.objectives.draws.world", lambda rank=rank: (rank, ranks))
        shares.append(Draws(5).normal(48 // ranks, 3))
    assert torch.equal(torch.cat(shares), whole)


@pytest.mark.parametrize("present", [{"image": [0, 1], "text": []}, {"image": [0, 1], "text": [1, 2]}])
def test_without_a_false_partner_matching_is_zero_with_gradients(present, aligned):
    objective = Matching(Joined()).double()
    loss = objective(aligned(present))["matching_image_text"]
    loss.backward()
    assert loss == 0
    assert all(parameter.grad is not None for parameter in objective.parameters())


def test_matching_learns_to_tell_true_from_false_pairs(aligned):
    torch.manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(6, 1, 8), dim=-1) * 3
    rows = torch.arange(6)
    embeddings = torch.nn.functional.normalize(features[:, 0], dim=1)
    batch = Aligned(
        {"image": embeddings, "text": embeddings},
        {"image": rows, "text": rows},
        6,
        {"image": full(features), "text": full(features)},
    )
    objective = Matching(Joined())
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.05)
    history = []
    for _ in range(80):
        (loss,) = objective(batch).values()
        history.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(history[-10:]) / 10 < 0.4 < history[0]


# ---- completion


def test_completion_of_known_vectors_is_two_minus_two_cosines(aligned):
    batch = aligned({"image": [0, 1, 2], "text": [1, 2, 3], "audio": [2, 5]})
    objective = Completion(["audio", "image", "text"], dim=4, hidden=7).double()
    losses = objective(batch)
    assert sorted(losses) == ["completion_audio", "completion_image", "completion_text"]

    def told(target, givers):
        mean = sum(objective.maps[name](vector) for name, vector in givers.items()) / len(givers)
        prediction = torch.nn.functional.normalize(objective.predictors[target](mean), dim=0)
        return prediction

    image, text, audio = (batch.embeddings[name] for name in ("image", "text", "audio"))
    one = 2 - 2 * told("image", {"text": text[0]}) @ image[1]
    two = 2 - 2 * told("image", {"text": text[1], "audio": audio[0]}) @ image[2]
    torch.testing.assert_close(losses["completion_image"], (one + two) / 2)
    alone = 2 - 2 * told("audio", {"image": image[2], "text": text[1]}) @ audio[0]
    torch.testing.assert_close(losses["completion_audio"], alone)


def test_the_target_of_completion_gets_no_gradient(aligned):
    batch = aligned({"image": [0, 1], "text": [1, 2]})
    objective = Completion(["image", "text"], dim=4).double()
    objective(batch)["completion_image"].backward()
    assert batch.tokens["image"].features.grad is None or not batch.tokens["image"].features.grad.any()
    assert batch.tokens["text"].features.grad.any()


def test_completion_without_a_sample_is_zero_with_gradients(aligned):
    objective = Completion(["image", "text"], dim=4).double()
    losses = objective(aligned({"image": [0, 1], "text": []}))
    sum(losses.values()).backward()
    assert all(loss == 0 for loss in losses.values())
    assert all(parameter.grad is not None for parameter in objective.parameters())


def test_completion_refuses_what_the_model_does_not_have(aligned):
    with pytest.raises(ValueError, match="needs two modalities or more, was given: image"):
        Completion(["image"], dim=4)
    with pytest.raises(
        ValueError, match="completion of audio in 4 dimensions: the model has image in 4, text in 4"
    ):
        Completion(["image", "audio"], dim=4)(aligned({"image": [0], "text": [0]}))


def test_a_completion_that_was_handed_over_tells_the_same_of_any_that_are_there(aligned, tmp_path):
    batch = aligned({"image": [0, 1, 2], "text": [1, 2, 3], "audio": [2, 5]})
    objective = Weighted(
        {"contrast": InfoNCE(), "complete": Completion(MODALITIES, dim=4, hidden=7)}
    ).double()
    (name, part), *others = objective.exports().items()
    assert name == "completion" and not others
    loaded = parts.load(str(parts.save(part, tmp_path / name))).double()
    told = {}
    for asking in (["image", "text"], ["text"]):
        known = {asks: batch.embeddings[asks].detach() for asks in asking}
        vectors, is_told = loaded.predict(known, batch.rows, batch.size, "audio")
        assert is_told.tolist() == [any(row in batch.rows[asks] for asks in asking) for row in range(6)]
        told[len(asking)] = vectors
        torch.testing.assert_close(vectors, part.predict(known, batch.rows, batch.size, "audio")[0])
    torch.testing.assert_close(told[1][3], told[2][3])  # sample 3 has no picture to miss
    assert not torch.allclose(told[1][1], told[2][1])
    with pytest.raises(ValueError, match="nothing to tell audio from"):
        loaded.predict({"audio": batch.embeddings["audio"]}, batch.rows, batch.size, "audio")


def test_two_completions_of_one_run_are_refused_for_they_would_be_one_part():
    both = {name: Completion(MODALITIES, dim=4) for name in ("first", "second")}
    with pytest.raises(ValueError, match="both hand over the part completion"):
        Weighted(both).configure(dict.fromkeys(MODALITIES, 8), dim=4)


# ---- several at once


def test_weighted_is_the_weighted_losses_by_name(aligned):
    batch = aligned({"image": [0, 1, 2], "text": [0, 1, 2]})
    both = Weighted({"near": InfoNCE(), "far": SigLIP()}, weights={"far": 0.25}).double()
    losses = both(batch)
    assert sorted(losses) == ["far_image_text", "near_image_text"]
    torch.testing.assert_close(losses["near_image_text"], InfoNCE().double()(batch)["image_text"])
    torch.testing.assert_close(losses["far_image_text"], 0.25 * SigLIP().double()(batch)["image_text"])


def lengths_at_tokens(losses, batch):
    tokens = [each.features for each in batch.tokens.values()]
    found = {}
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, tokens, retain_graph=True, allow_unused=True)
        found[name] = sum(each.square().sum() for each in gradients if each is not None).sqrt().item()
    return found


def test_balanced_gradients_are_as_long_as_the_weights_say(aligned):
    batch = aligned({"image": [0, 1, 2, 4], "text": [0, 1, 2, 4]})
    objectives = {"near": InfoNCE(), "match": Matching(Joined())}
    balanced = GradientBalanced(objectives, weights={"near": 3.0}).double()
    before = lengths_at_tokens(Weighted(objectives).double()(batch), batch)
    for module in (balanced.objectives["match"].draws,):
        module.step.zero_()
    after = lengths_at_tokens(balanced(batch), batch)
    assert before["near_image_text"] / before["match_matching_image_text"] != pytest.approx(3, rel=0.1)
    assert after["near_image_text"] / after["match_matching_image_text"] == pytest.approx(3, rel=1e-4)


def test_balance_changes_in_training_only_and_returns_with_the_state(aligned):
    batch = aligned({"image": [0, 1, 2], "text": [0, 1, 2]})
    balanced = GradientBalanced({"near": InfoNCE(), "far": SigLIP()}).double()
    balanced(batch)
    lengths = balanced.lengths.clone()
    assert (lengths > 0).all()
    balanced.eval()
    with torch.no_grad():
        balanced(aligned({"image": [0, 1, 2], "text": [0, 1, 2]}, seed=5))
    assert torch.equal(balanced.lengths, lengths)
    again = GradientBalanced({"near": InfoNCE(), "far": SigLIP()})
    again.load_state_dict(balanced.state_dict())
    torch.testing.assert_close(again.lengths.double(), lengths)


def test_a_batch_without_samples_leaves_the_balance_as_it_was(aligned):
    balanced = GradientBalanced({"near": InfoNCE(), "far": SigLIP()}).double()
    balanced(aligned({"image": [0, 1, 2], "text": [0, 1, 2]}))
    lengths = balanced.lengths.clone()
    losses = balanced(aligned({"image": [0, 1], "text": []}))
    assert torch.equal(balanced.lengths, lengths) and all(loss == 0 for loss in losses.values())


@pytest.mark.parametrize("factor", [torch.inf, torch.nan])
def test_a_gradient_that_is_not_finite_leaves_the_balance_as_it_was(factor, aligned):
    balanced, batch = (
        GradientBalanced({"near": InfoNCE(), "far": SigLIP()}).double(),
        aligned({"image": [0, 1, 2], "text": [0, 1, 2]}),
    )
    balanced(batch)
    near, far = balanced.lengths.tolist()
    loss = batch.tokens["image"].features.sum()
    balanced.observe({"near": {"a": factor * loss}, "far": {"b": loss}}, batch)
    assert balanced.lengths[0] == near and balanced.lengths[1] != far


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Weighted({}), "no objective"),
        (lambda: Weighted({"near": InfoNCE()}, {"nier": 1.0}), "weights names nier, the objectives are near"),
        (lambda: Weighted({"near": InfoNCE()}, {"near": -1.0}), "0 or more"),
        (lambda: GradientBalanced({"near": InfoNCE()}, momentum=1.0), "momentum is 1"),
    ],
)
def test_weights_that_cannot_work_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "build",
    [
        lambda: InfoNCE(),
        lambda: SigLIP(),
        lambda: Matching(Joined()),
        lambda: Completion(["image", "text"], dim=4),
        lambda: Weighted({"near": InfoNCE()}),
    ],
)
def test_one_modality_is_refused(build, aligned):
    with pytest.raises(ValueError, match="two modalities or more, the model has: image: add the encoder of"):
        build()(aligned({"image": [0, 1]}))


@pytest.mark.parametrize(
    "build",
    [
        lambda: InfoNCE(),
        lambda: SigLIP(),
        lambda: Matching(Joined()),
        lambda: Completion(MODALITIES, dim=4, hidden=8),
        lambda: TemporalAlignment({"video": 8, "audio": 8}, dim=4),
        lambda: GradientBalanced({"near": InfoNCE(), "match": Matching(Joined())}),
    ],
)
def test_every_pattern_of_four_modalities_gives_finite_losses_and_gradients(build, aligned):
    objective = build().double()
    for pattern in itertools.product([[], [3], [0, 2, 3, 5]], repeat=4):
        batch = aligned(dict(zip(MODALITIES, pattern, strict=True)))
        objective.zero_grad()
        losses = objective(batch)
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())
        given = [tokens.features.grad for tokens in batch.tokens.values()]
        trained = [parameter.grad for parameter in objective.parameters() if parameter.requires_grad]
        assert all(gradient.isfinite().all() for gradient in (*given, *trained) if gradient is not None)
        assert all(gradient is not None for gradient in trained)

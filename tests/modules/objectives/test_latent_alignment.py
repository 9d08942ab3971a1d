"""Latent alignment: its terms by hand, its gradients, and that it brings the latents of a sample together."""

import itertools

import pytest
import torch

from modules.fusion.latent import Gaussian, LatentFusion
from modules.objectives.latent_alignment import LatentAlignment, distance, divergence, target

MODALITIES = ["audio", "image", "text", "video"]


def built(names=MODALITIES, **weights):
    torch.manual_seed(0)
    return LatentAlignment(LatentFusion(dict.fromkeys(names, 8), dim=4, hidden=6), **weights).double()


def test_divergence_and_distance_are_torchs_and_the_definition():
    one, other = (Gaussian(torch.randn(3, 4), torch.randn(3, 4)) for _ in range(2))
    normals = [torch.distributions.Normal(g.mean, (0.5 * g.log_variance).exp()) for g in (one, other)]
    prior = torch.distributions.Normal(torch.zeros(3, 4), torch.ones(3, 4))
    torch.testing.assert_close(divergence(one), torch.distributions.kl_divergence(normals[0], prior))
    # Between normals in one dimension, optimal transport moves each quantile to the same quantile.
    levels = (torch.arange(20000) + 0.5) / 20000
    apart = [n.icdf(levels.reshape(-1, 1, 1)) for n in normals]
    torch.testing.assert_close(
        (apart[0] - apart[1]).square().mean(0), distance(one, other), rtol=2e-3, atol=1e-3
    )


def test_losses_in_evaluation_are_the_terms_by_hand(aligned):
    batch = aligned({"image": [0, 2, 3], "text": [2, 3, 5]})
    objective = built(["image", "text"], beta=0.5, align=2.0, cross=3.0).eval()
    losses, latent = objective(batch), objective.latent
    posterior = {name: latent.posterior(name, batch.tokens[name]) for name in ("image", "text")}
    goal = {name: target(batch.tokens[name]) for name in posterior}
    image = Gaussian(*(each[[1, 2]] for each in posterior["image"]))  # of samples 2 and 3
    text = Gaussian(*(each[[0, 1]] for each in posterior["text"]))
    expected = {
        "reconstruct_image": latent.decode("image", posterior["image"].mean) - goal["image"],
        "cross_image_text": 3**0.5 * (latent.decode("text", image.mean) - goal["text"][:2]),
        "cross_text_image": 3**0.5 * (latent.decode("image", text.mean) - goal["image"][1:]),
    }
    for name, error in expected.items():
        torch.testing.assert_close(losses[name], error.square().mean().float())
    torch.testing.assert_close(losses["kl_text"], 0.5 * divergence(posterior["text"]).mean().float())
    torch.testing.assert_close(losses["align_image_text"], 2 * distance(image, text).mean().float())
    assert "adversary" not in losses


def test_the_adversary_is_reversed_for_the_latents_alone(aligned):
    objective = built(["image", "text"], adversary=1.0).eval()
    posterior = {name: torch.randn(3, 4, dtype=torch.float64).requires_grad_() for name in ("image", "text")}
    objective.confuse(posterior).backward()
    kinds = torch.tensor([0, 0, 0, 1, 1, 1])
    given = [p.grad for p in objective.discriminator.parameters()]
    plain = {name: each.detach().clone().requires_grad_() for name, each in posterior.items()}
    loss = torch.nn.functional.cross_entropy(objective.discriminator(torch.cat(list(plain.values()))), kinds)
    straight = torch.autograd.grad(loss, [*plain.values(), *objective.discriminator.parameters()])
    for name, gradient in zip(plain, straight, strict=False):
        torch.testing.assert_close(posterior[name].grad, -gradient, rtol=1e-5, atol=1e-7)
    for one, other in zip(given, straight[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_every_pattern_gives_finite_losses_and_a_gradient_to_every_parameter(aligned):
    objective = built(adversary=0.1)
    for pattern in itertools.product([[], [3], [0, 2, 3, 5]], repeat=4):
        batch = aligned(dict(zip(MODALITIES, pattern, strict=True)))
        objective.zero_grad()
        losses = objective(batch)
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())


def test_the_same_step_draws_the_same_noise_and_evaluation_none(aligned):
    batch = aligned({"image": [0, 1], "text": [0, 1]})
    one, other = built(["image", "text"]), built(["image", "text"])
    first = one(batch)
    assert first == other(batch) and first != one(batch)
    one.eval()
    assert one(batch) == one(batch)


def test_latents_of_a_sample_come_together(aligned):
    batch = aligned({"image": list(range(6)), "text": list(range(6))})
    objective = built(["image", "text"])
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.02)

    def found():
        """Count the images whose nearest text, in the latent space, is their own."""
        means = [objective.latent.posterior(name, batch.tokens[name]).mean for name in ("image", "text")]
        return (torch.cdist(*means).argmin(1) == torch.arange(6)).sum().item()

    before = found()
    for _ in range(200):
        optimizer.zero_grad()
        sum(objective(batch).values()).backward(retain_graph=True)
        optimizer.step()
    assert before < 6 and found() == 6


def test_a_negative_weight_and_other_modalities_are_refused(aligned):
    with pytest.raises(ValueError, match=r"0 or more, found \{'align': -1\}"):
        built(align=-1)
    with pytest.raises(ValueError, match="built for image, text, the model has audio, text"):
        built(["image", "text"])(aligned({"audio": [0], "text": [0]}))


def test_an_autoencoder_more_than_the_model_has_modalities_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match="built for audio, image, text, video, the model has image, text"):
        built().configure({"image": 8, "text": 8}, 4)

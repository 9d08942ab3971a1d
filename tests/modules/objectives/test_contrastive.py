"""Contrastive objectives: equal to open_clip's, and blind to rows that lack a modality."""

import pytest
import torch

from modules.objectives.contrastive import InfoNCE, SigLIP


def unit(rows, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=1).requires_grad_()


def everyone(count):
    return torch.arange(count)


def test_infonce_equals_open_clip_in_value_and_gradient():
    from open_clip.loss import ClipLoss

    image, text = unit(12, seed=1), unit(12, seed=2)
    ours = InfoNCE().double()
    losses = ours({"image": image, "text": text}, {"image": everyone(12), "text": everyone(12)}, 12)
    theirs = ClipLoss()(image, text, ours.scale())
    torch.testing.assert_close(losses["image_text"], theirs, rtol=1e-6, atol=0)
    for ours_gradient, gradient in zip(
        torch.autograd.grad(losses["image_text"], (image, text), retain_graph=True),
        torch.autograd.grad(theirs, (image, text)),
        strict=True,
    ):
        torch.testing.assert_close(ours_gradient, gradient, rtol=1e-6, atol=1e-12)


def test_siglip_equals_open_clip_in_value_and_gradient():
    from open_clip.loss import SigLipLoss

    image, text = unit(12, seed=1), unit(12, seed=2)
    ours = SigLIP().double()
    losses = ours({"image": image, "text": text}, {"image": everyone(12), "text": everyone(12)}, 12)
    theirs = SigLipLoss()(image, text, ours.scale(), ours.logit_bias)
    torch.testing.assert_close(losses["image_text"], theirs, rtol=1e-6, atol=0)
    for ours_gradient, gradient in zip(
        torch.autograd.grad(losses["image_text"], (image, text), retain_graph=True),
        torch.autograd.grad(theirs, (image, text)),
        strict=True,
    ):
        torch.testing.assert_close(ours_gradient, gradient, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("objective", [InfoNCE, SigLIP])
def test_rows_that_lack_a_modality_leave_the_logits(objective):
    image, text = unit(6, seed=1), unit(5, seed=2)
    rows = {"image": torch.tensor([0, 1, 2, 4, 5, 7]), "text": torch.tensor([0, 2, 3, 4, 6])}
    loss = objective().double()
    losses = loss({"image": image, "text": text}, rows, 8)
    both = loss(
        {"image": image[[0, 2, 3]], "text": text[[0, 1, 3]]}, {"image": everyone(3), "text": everyone(3)}, 3
    )
    torch.testing.assert_close(losses["image_text"], both["image_text"])


@pytest.mark.parametrize("objective", [InfoNCE, SigLIP])
def test_every_pair_of_modalities_has_a_loss_and_an_absent_one_gives_zero_with_a_gradient(objective):
    vectors = {"image": unit(4, seed=1), "text": unit(4, seed=2), "audio": unit(0)}
    rows = {"image": everyone(4), "text": everyone(4), "audio": everyone(0)}
    losses = objective().double()(vectors, rows, 4)
    assert sorted(losses) == ["audio_image", "audio_text", "image_text"]
    assert losses["audio_image"] == 0
    sum(losses.values()).backward()
    assert vectors["audio"].grad is not None


def test_logit_scale_is_never_larger_than_its_limit():
    loss = InfoNCE()
    loss.logit_scale.data.fill_(10.0)
    assert loss.scale() == 100.0


def test_one_modality_is_refused():
    with pytest.raises(ValueError, match="needs two modalities"):
        InfoNCE()({"image": unit(2)}, {"image": everyone(2)}, 2)

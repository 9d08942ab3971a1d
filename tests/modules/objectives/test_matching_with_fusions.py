"""Matching asked of every fusion: all patterns of presence, and that each learns to tell true from false pairs."""

import itertools

import pytest
import torch

from modules.fusion.concat import ConcatFusion
from modules.fusion.cross_attention import CrossAttentionFusion
from modules.fusion.early import EarlyFusion
from modules.fusion.gated import GatedFusion
from modules.fusion.late import LateFusion
from modules.fusion.latent import LatentFusion
from modules.fusion.perceiver import PerceiverFusion
from modules.fusion.weighted import WeightedFusion
from modules.objectives.aligned import Aligned
from modules.objectives.matching import Matching
from modules.tokens import full

MODALITIES = ["audio", "image", "text", "video"]
FUSIONS = {
    "concat": lambda widths: ConcatFusion(widths, 8),
    "late": lambda widths: LateFusion(widths, 8),
    "weighted": lambda widths: WeightedFusion(widths, 8),
    "gated": lambda widths: GatedFusion(widths, 8),
    "early": lambda widths: EarlyFusion(widths, 32, num_heads=4),
    "cross": lambda widths: CrossAttentionFusion(widths, 32, num_layers=1, num_heads=4),
    "perceiver": lambda widths: PerceiverFusion(widths, 32, num_latents=2, num_heads=4),
    "latent": lambda widths: LatentFusion(widths, 8),
}


@pytest.mark.parametrize("name", FUSIONS)
def test_every_pattern_gives_finite_losses_and_a_gradient_to_every_parameter(name, aligned):
    objective = Matching(FUSIONS[name](dict.fromkeys(MODALITIES, 8))).double()
    for present in itertools.product([[], [0, 2, 3, 5]], repeat=4):
        objective.zero_grad()
        losses = objective(aligned(dict(zip(MODALITIES, present, strict=True))))
        sum(losses.values()).backward()
        assert len(losses) == 6 and all(loss.isfinite() for loss in losses.values())
        used = {key: p for key, p in objective.named_parameters() if "decoders" not in key}
        assert all(p.grad is not None and p.grad.isfinite().all() for p in used.values())


@pytest.mark.parametrize("name", ["cross", "early", "perceiver"])
def test_a_fusion_that_attends_learns_to_tell_true_from_false_pairs(name):
    torch.manual_seed(0)
    features = 2 * torch.nn.functional.normalize(torch.randn(6, 1, 8), dim=-1)
    rows, embeddings = torch.arange(6), torch.nn.functional.normalize(features[:, 0], dim=1)
    names = ("image", "text")
    batch = Aligned(
        dict.fromkeys(names, embeddings), dict.fromkeys(names, rows), 6, dict.fromkeys(names, full(features))
    )
    objective = Matching(FUSIONS[name](dict.fromkeys(names, 8)), logit_scale=1.0)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.003)
    history = []
    for _ in range(150):
        (loss,) = objective(batch).values()
        history.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(history[-10:]) / 10 < 0.2 < history[0]


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_that_has_a_modality_more_than_the_model_serves(name, aligned):
    objective = Matching(FUSIONS[name](dict.fromkeys(MODALITIES, 8))).double()
    widths = dict.fromkeys(["audio", "image", "text"], 8)
    objective.configure(widths, 4)
    losses = objective(aligned({key: [0, 1, 2, 3] for key in widths}))
    assert set(losses) == {"matching_audio_image", "matching_audio_text", "matching_image_text"}
    sum(losses.values()).backward()
    used = {key: p for key, p in objective.named_parameters() if "decoders" not in key}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in used.values())


def test_a_fusion_that_lacks_a_modality_of_the_model_is_refused(aligned):
    objective = Matching(FUSIONS["gated"]({"image": 8, "audio": 8}))
    with pytest.raises(ValueError, match="tokens of text, it was built for audio, image"):
        objective(aligned({"image": [0, 1], "text": [0, 1]}))

"""Latent alignment: autoencoders of several modalities are brought to one latent space."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules.collectives import global_mean
from modules.fusion.fusion import FusionSource, as_fusion
from modules.fusion.latent import Gaussian, LatentFusion
from modules.objectives.aligned import Aligned, AlignmentObjective, shared_rows
from modules.objectives.draws import Draws
from modules.parts import Part
from modules.tokens import Tokens


class LatentAlignment(AlignmentObjective):
    """A VAE for each modality, with latents of a sample brought together (CADA-VAE, arXiv:1812.01784, section 3.2).

    The terms are: reconstruction; KL to N(0, 1); the 2-Wasserstein distance between the posteriors of two modalities
    of a sample (eq. 4), squared here, which has no kink at zero; cross reconstruction, one modality drawn from the
    latent of another (eq. 3); and, where `adversary` is not 0, a discriminator that tells from a latent which modality
    it came from, while a reversed gradient (arXiv:1505.07818) makes the latents alike. Squared errors throughout,
    averaged over features. The target is a modality's pooled tokens, normed, without gradient. The VAEs are handed
    over, as the part `fusion`: they join the modalities of a sample by the product of their posteriors.

    Args:
        latent: the VAEs: LatentFusion without its `widths`, which are the encoders', or the part of an earlier run.
        beta: weight of the KL term.
        align: weight of the distance between posteriors.
        cross: weight of the cross reconstruction.
        adversary: weight of the adversarial term; 0 leaves it out.
        seed: of the noise.

    Raises:
        ValueError: when a weight is negative; `configure`, when `latent` was built for other modalities than the
            model's, or other widths.
    """

    latent: LatentFusion

    def __init__(
        self,
        latent: FusionSource,
        beta: float = 0.01,
        align: float = 1.0,
        cross: float = 1.0,
        adversary: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.weights = {"kl": beta, "align": align, "cross": cross, "adversary": adversary}
        negative = {name: weight for name, weight in self.weights.items() if not weight >= 0}
        if negative:
            raise ValueError(f"weights must be 0 or more, found {negative}")
        self.draws = Draws(seed)
        self.discriminator: nn.Module | None = None
        self.plan: FusionSource | None = None if isinstance(latent, Part) else latent
        if self.plan is None:
            self._build(latent, {})

    def _build(self, source: FusionSource, widths: Mapping[str, int]) -> None:
        latent = as_fusion(source, widths)
        if not isinstance(latent, LatentFusion):
            raise ValueError(
                f"latent was given a {type(latent).__name__}, expected a LatentFusion: the VAEs are aligned"
            )
        self.latent = latent
        self.plan = None
        if self.weights["adversary"]:
            self.discriminator = nn.Sequential(
                nn.Linear(latent.dim, latent.hidden),
                nn.GELU(),
                nn.Linear(latent.hidden, len(latent.modalities)),
            )

    def configure(self, widths: Mapping[str, int], dim: int) -> None:
        if self.plan is not None:
            self._build(self.plan, widths)
        self.latent.check_widths(widths)
        self._check_modalities(widths)

    def _check_modalities(self, names: Iterable[str]) -> None:
        if set(names) != set(self.latent.modalities):
            raise ValueError(
                f"the latent space was built for {', '.join(self.latent.modalities)}, the model has "
                f"{', '.join(sorted(names))}: give `latent` the width of each"
            )

    def exports(self) -> dict[str, Part]:
        return {"fusion": self.latent}

    def losses(self, aligned: Aligned) -> dict[str, Tensor]:
        """Return `reconstruct_<m>`, `kl_<m>`, `align_<m>_<n>`, `cross_<m>_<n>` (n from m), and `adversary`."""
        names = sorted(aligned.tokens)
        self._check_modalities(names)
        posteriors = {name: self.latent.posterior(name, aligned.tokens[name]) for name in names}
        noise = self.draws.normal(aligned.size, len(names) * self.latent.dim).chunk(len(names), dim=1)
        latents = {
            name: self.sample(posteriors[name], each[aligned.rows[name].cpu()])
            for name, each in zip(names, noise, strict=True)
        }
        targets = {name: target(aligned.tokens[name]) for name in names}
        losses = {}
        for name in names:
            losses[f"reconstruct_{name}"] = self._error(name, latents[name], targets[name])
            losses[f"kl_{name}"] = self.weights["kl"] * _mean(divergence(posteriors[name]))
        for one, other in itertools.combinations(names, 2):
            here, there = shared_rows(aligned.rows[one], aligned.rows[other], aligned.size)
            apart = distance(_pick(posteriors[one], here), _pick(posteriors[other], there))
            losses[f"align_{one}_{other}"] = self.weights["align"] * _mean(apart)
            cross = self.weights["cross"]
            losses[f"cross_{one}_{other}"] = cross * self._error(
                other, latents[one][here], targets[other][there]
            )
            losses[f"cross_{other}_{one}"] = cross * self._error(
                one, latents[other][there], targets[one][here]
            )
        if self.discriminator is not None:
            losses["adversary"] = self.weights["adversary"] * self.confuse(latents)
        return losses

    def sample(self, posterior: Gaussian, noise: Tensor) -> Tensor:
        """Draw a latent in training, by noise (rows, dim); in evaluation it is the mean."""
        if not self.training:
            return posterior.mean
        return posterior.mean + (0.5 * posterior.log_variance).exp() * noise.to(posterior.mean)

    def confuse(self, latents: dict[str, Tensor]) -> Tensor:
        """Return the discriminator's cross-entropy; what reaches the latents of its gradient is reversed."""
        assert self.discriminator is not None
        logits = self.discriminator(_Reversed.apply(torch.cat(list(latents.values())))).float()
        kinds = [
            torch.full((len(each),), kind, device=each.device) for kind, each in enumerate(latents.values())
        ]
        total = nn.functional.cross_entropy(logits, torch.cat(kinds), reduction="sum")
        return global_mean(total, len(logits))

    def _error(self, name: str, latents: Tensor, targets: Tensor) -> Tensor:
        return _mean((self.latent.decode(name, latents) - targets).square())


def target(tokens: Tokens) -> Tensor:
    """Return what is to be reconstructed, (rows, width): pooled tokens of mean 0 and variance 1, without gradient."""
    pooled = tokens.pooled().detach()
    return nn.functional.layer_norm(pooled, pooled.shape[-1:])


def divergence(posterior: Gaussian) -> Tensor:
    """Return the KL divergence to N(0, 1) of each feature, (rows, dim)."""
    variance = posterior.log_variance.exp()
    return 0.5 * (posterior.mean.square() + variance - 1 - posterior.log_variance)


def distance(one: Gaussian, other: Gaussian) -> Tensor:
    """Return the squared 2-Wasserstein distance of each feature, (rows, dim)."""
    spread = (0.5 * one.log_variance).exp() - (0.5 * other.log_variance).exp()
    return (one.mean - other.mean).square() + spread.square()


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient is turned round."""

    @staticmethod
    def forward(ctx: Any, latents: Tensor) -> Tensor:
        return latents.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


def _pick(posterior: Gaussian, index: Tensor) -> Gaussian:
    return Gaussian(posterior.mean[index], posterior.log_variance[index])


def _mean(terms: Tensor) -> Tensor:
    """Average (rows, features) over all ranks' rows."""
    return global_mean(terms.float().mean(1).sum(), len(terms))

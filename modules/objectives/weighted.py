"""Weighted: several alignment objectives at once, with fixed weights or weights that even out their gradients."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from modules.collectives import sum_over_ranks
from modules.objectives.aligned import Aligned, AlignmentObjective
from modules.parts import Part


class Weighted(AlignmentObjective):
    """The sum of objectives, each times a weight.

    Args:
        objectives: by name.
        weights: by the same names; 1 where none is given.

    Raises:
        ValueError: when there is no objective, or a weight is negative or names none of them; `configure`, when two
            objectives hand over parts of one name.
    """

    weights: Tensor

    def __init__(
        self, objectives: dict[str, AlignmentObjective], weights: dict[str, float] | None = None
    ) -> None:
        super().__init__()
        weights = dict(weights or {})
        if not objectives:
            raise ValueError("Weighted was given no objective: name one or more")
        unknown = sorted(set(weights) - set(objectives))
        if unknown:
            raise ValueError(
                f"weights names {', '.join(unknown)}, the objectives are {', '.join(sorted(objectives))}"
            )
        negative = {name: weight for name, weight in weights.items() if not weight >= 0}
        if negative:
            raise ValueError(f"weights must be 0 or more, found {negative}")
        self.objectives = nn.ModuleDict(objectives)
        self.register_buffer("weights", torch.tensor([weights.get(name, 1.0) for name in objectives]))

    @property
    def compares_samples(self) -> bool:  # type: ignore[override]
        return any(objective.compares_samples for objective in self._each())

    def configure(self, widths: Mapping[str, int], dim: int) -> None:
        for objective in self._each():
            objective.configure(widths, dim)
        names = [name for objective in self._each() for name in objective.exports()]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"two objectives both hand over the part {', '.join(twice)}: expected one of them; align with one, "
                "and with the other in a run of its own"
            )

    def check_inputs(self, configs: Mapping[str, Mapping[str, Any]]) -> None:
        for objective in self._each():
            objective.check_inputs(configs)

    def exports(self) -> dict[str, Part]:
        return {name: part for objective in self._each() for name, part in objective.exports().items()}

    def _each(self) -> list[AlignmentObjective]:
        return [cast(AlignmentObjective, objective) for objective in self.objectives.values()]

    def losses(self, aligned: Aligned) -> dict[str, Tensor]:
        """Return every loss times its objective's weight, named `<objective>_<loss>`."""
        found = {name: objective(aligned) for name, objective in self.objectives.items()}
        factors = self.factors(found, aligned)
        return {
            f"{name}_{key}": factor * loss
            for (name, losses), factor in zip(found.items(), factors, strict=True)
            for key, loss in losses.items()
        }

    def factors(self, found: Mapping[str, Mapping[str, Tensor]], aligned: Aligned) -> Tensor:
        """Return one factor for each objective, (objectives,), without gradients.

        Args:
            found: unweighted losses by objective.
            aligned: what they were made of.
        """
        return self.weights


class GradientBalanced(Weighted):
    """Weights under which the objectives' gradients at the encoders' tokens are as long as each other.

    GradNorm (arXiv:1711.02257, eq. 2) with alpha = 0, where all tasks' gradients at the shared layer have the mean
    length, times the weights given here. Differs in that the weights are set to where GradNorm's descent would take
    them, from lengths averaged over steps, and in that the shared layer is the tokens, which every objective sees.
    Costs one more backward pass through each objective, not through the encoders.

    Args:
        objectives: by name.
        weights: how long each one's gradient should be, relative to the others; 1 where none is given.
        momentum: of the running average of lengths.
    """

    lengths: Tensor

    def __init__(
        self,
        objectives: dict[str, AlignmentObjective],
        weights: dict[str, float] | None = None,
        momentum: float = 0.9,
    ) -> None:
        super().__init__(objectives, weights)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}, expected from 0 to below 1")
        self.momentum = momentum
        self.register_buffer("lengths", torch.zeros(len(objectives)))  # zero: not seen yet

    def factors(self, found: Mapping[str, Mapping[str, Tensor]], aligned: Aligned) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.observe(found, aligned)
        seen = self.lengths > 0
        mean = self.lengths.sum() / seen.sum().clamp(min=1)
        return self.weights * torch.where(seen, mean / self.lengths.clamp(min=1e-30), 1.0)

    def observe(self, found: Mapping[str, Mapping[str, Tensor]], aligned: Aligned) -> None:
        """Bring the running average of each objective's gradient length up to date.

        An objective without a gradient in this batch, for want of samples or because the encoders are frozen, or with
        one that is not finite, keeps what it had.
        """
        tokens = [t.features for t in aligned.tokens.values() if t.features.requires_grad]
        squares = self.lengths.new_zeros(len(found))
        for number, losses in enumerate(found.values()):
            total = torch.stack(list(losses.values())).sum()
            if tokens and total.requires_grad:
                for gradient in torch.autograd.grad(total, tokens, retain_graph=True, allow_unused=True):
                    if gradient is not None:
                        squares[number] += gradient.float().square().sum()
        now = sum_over_ranks(squares).sqrt()  # the same on all ranks, so that all weigh alike
        averaged = torch.lerp(now, self.lengths, self.momentum)
        averaged = torch.where(self.lengths > 0, averaged, now)
        self.lengths.copy_(torch.where((now > 0) & now.isfinite(), averaged, self.lengths))

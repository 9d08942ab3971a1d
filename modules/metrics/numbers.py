"""NumberTally: how far said numbers are from the right ones, by torchmetrics."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional import mean_absolute_error, mean_squared_error, pearson_corrcoef, r2_score
from torchmetrics.utilities import dim_zero_cat

from modules.metrics.scores import Scores, Tally


class NumberTally(Tally):
    """Mean absolute error, root of the mean squared error, R² and Pearson's correlation.

    All numbers are kept and judged at the end, in float64. R² and the correlation are left out where the numbers are
    fewer than two or all alike: they are not defined then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pairs = _Pairs()

    def update(self, said: Tensor, right: Tensor) -> None:  # type: ignore[override]
        """Add answers.

        Args:
            said: (rows,), float.
            right: (rows,), float.
        """
        self.pairs.update(said, right)

    def scores(self) -> Scores:
        said, right = self.pairs.compute().cpu().double().unbind(1)
        figures: dict[str, Tensor] = {}
        if len(right):
            figures["mean_absolute_error"] = mean_absolute_error(said, right)
            figures["root_mean_squared_error"] = mean_squared_error(said, right, squared=False)
        if len(right) > 1 and right.std() > 0:
            figures["r2"] = r2_score(said, right)
            if said.std() > 0:
                figures["pearson"] = pearson_corrcoef(said, right)
        return Scores({name: float(value) for name, value in figures.items()}, len(right), "samples")

    def reset(self) -> None:
        self.pairs.reset()


class _Pairs(Metric):
    """Keeps pairs of numbers."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        # Flat, so that a rank without a single row gathers with the others: they all have one dimension.
        self.add_state("flat", default=[], dist_reduce_fx="cat")

    def update(self, said: Tensor, right: Tensor) -> None:
        self.flat.append(torch.stack([said.detach().float(), right.float()], 1).flatten())

    def compute(self) -> Tensor:
        return dim_zero_cat(self.flat).view(-1, 2) if len(self.flat) else torch.zeros(0, 2)

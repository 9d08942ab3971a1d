"""ModalityMasking: in training some samples lose a modality, so that the model learns to do without."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from modules.objectives.draws import Draws


class ModalityMasking(nn.Module):
    """Takes modalities away from samples: their rows leave the batch, nothing is put in their place.

    Modality dropout (ModDrop, arXiv:1501.00102, section 4), with rows removed where it sets inputs to zero. Which rows
    go depends on the seed, the step and the sample's place in the batch of all ranks. In evaluation nothing is taken.

    Args:
        share: of the modalities that samples have, on average; 0.1 to 0.2 is usual.
        at_least: modalities that a sample keeps in any case; 2 where an objective is about pairs.
        seed: of the draw.

    Raises:
        ValueError: when the share is not from 0 to below 1, or a sample might keep none.
    """

    def __init__(self, share: float = 0.15, at_least: int = 1, seed: int = 0) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"share is {share}, expected from 0 to below 1; 0.15 is usual")
        if at_least < 1:
            raise ValueError(f"at_least is {at_least}: a sample must keep one modality or more")
        self.share, self.at_least = share, at_least
        self.draws = Draws(seed)

    def forward(
        self, inputs: Mapping[str, Mapping[str, Tensor]], rows: Mapping[str, Tensor], size: int
    ) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
        """Return inputs and rows without what was taken.

        Args:
            inputs: modality -> Inputs, whose first dimension is rows.
            rows: modality -> (rows,), int64: which sample of the batch each row belongs to.
            size: samples in the batch.
        """
        if not self.training:
            return {name: dict(values) for name, values in inputs.items()}, dict(rows)
        names = sorted(rows)  # the draw does not depend on the order of modalities
        luck = self.draws.uniform(size, len(names))
        present = torch.zeros(size, len(names), dtype=torch.bool)
        for column, name in enumerate(names):
            present[rows[name].cpu(), column] = True
        luck = luck.masked_fill(~present, -1.0)
        # Those of a sample with most luck stay, however little they have.
        place = luck.argsort(1, descending=True).argsort(1)
        stays = present & ((luck >= self.share) | (place < self.at_least))
        kept = {
            name: stays[rows[name].cpu(), column].nonzero().squeeze(1).to(rows[name].device)
            for column, name in enumerate(names)
        }
        return (
            {
                name: {key: tensor[kept[name]] for key, tensor in values.items()}
                for name, values in inputs.items()
            },
            {name: rows[name][kept[name]] for name in rows},
        )

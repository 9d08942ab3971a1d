"""DiscreteUnits: sound as a sequence of symbols, the cluster that each frame of a speech model falls into."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules import parts
from modules.encoders.discrete import DiscreteEncoder
from modules.encoders.encoder import as_encoder
from modules.tokens import Tokens


class DiscreteUnits(DiscreteEncoder):
    """An encoder's tokens to the nearest of `num_units` centroids (HuBERT, arXiv:2106.07447, section 3), embedded.

    `fit` finds the centroids; they are a tensor of the part, `centroids` (num_units, width). `units` gives the symbols
    themselves, for a vocabulary that text shares. The encoder under it is frozen and stays in evaluation.

    Args:
        encoder: whose tokens are quantised, such as Wav2VecEncoder with `num_layers`.
        num_units: clusters.
        dim: width of a unit's embedding.

    Raises:
        ValueError: when `encoder` is none, or there is less than one unit.
    """

    centroids: Tensor

    def __init__(self, encoder: parts.Part, *, num_units: int = 100, dim: int = 256) -> None:
        super().__init__()
        if num_units < 1:
            raise ValueError(f"num_units is {num_units}: expected one at least")
        self.encoder = as_encoder(encoder, "audio").requires_grad_(False).eval()
        self.num_units, self.dim = num_units, dim
        self.register_buffer("centroids", torch.zeros(num_units, self.encoder.dim))
        self.embedding = nn.Embedding(num_units, dim)

    @property
    def input_config(self) -> dict[str, Any]:
        return self.encoder.input_config

    def init_args(self) -> dict[str, Any]:
        return {"encoder": parts.within(self.encoder), "num_units": self.num_units, "dim": self.dim}

    def assets(self) -> dict[str, str]:
        return self.encoder.assets()

    def train(self, mode: bool = True) -> "DiscreteUnits":
        super().train(mode)
        self.encoder.eval()
        return self

    @torch.no_grad()
    def fit(
        self, batches: Iterable[Mapping[str, Tensor]], *, max_tokens: int = 1_000_000, seed: int = 0
    ) -> float:
        """Find the centroids by k-means over the real tokens of some batches of Inputs.

        Args:
            batches: read until `max_tokens` are there.
            max_tokens: all are kept in memory, in float32.
            seed: of the first centroids.

        Returns:
            The mean squared distance of a token to its centroid.

        Raises:
            ValueError: when there are fewer tokens than units.
        """
        from sklearn.cluster import MiniBatchKMeans

        found, count = [], 0
        for inputs in batches:
            tokens = self.encoder(inputs)
            found.append(tokens.features[tokens.mask].float().cpu())
            count += len(found[-1])
            if count >= max_tokens:
                break
        if count < self.num_units:
            raise ValueError(
                f"{count} tokens for {self.num_units} units: expected more sound, or fewer units"
            )
        features = torch.cat(found)[:max_tokens].numpy()
        size = max(10_000, 3 * self.num_units)
        clusters = MiniBatchKMeans(self.num_units, batch_size=size, n_init=3, random_state=seed).fit(features)
        self.centroids.copy_(torch.from_numpy(clusters.cluster_centers_))
        return float(clusters.inertia_) / len(features)

    def codebook(self) -> Tensor:
        return self.centroids

    @torch.no_grad()
    def units(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the number of each token's cluster (rows, tokens), int64, 0 where padded, and the mask.

        Raises:
            ValueError: when `fit` has found no centroids yet.
        """
        if not self.centroids.any():
            raise ValueError("these units have no centroids yet: call fit, or load a part that was fitted")
        tokens = self.encoder(inputs)
        numbers = torch.cdist(tokens.features.float(), self.centroids.expand(len(tokens), -1, -1)).argmin(2)
        return numbers.masked_fill(~tokens.mask, 0), tokens.mask

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Embed the units of sound; Inputs are the encoder's."""
        numbers, mask = self.units(inputs)
        return Tokens(self.embedding(numbers), mask)


def without_repeats(numbers: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the first of each run of equal units (rows, tokens), moved to the left, and the mask of what is left."""
    is_first = torch.ones_like(mask)
    is_first[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
    kept = mask & is_first
    order = torch.argsort(~kept, dim=1, stable=True)
    counts = kept.sum(1, keepdim=True)
    mask = torch.arange(numbers.shape[1], device=numbers.device) < counts
    return numbers.gather(1, order).masked_fill(~mask, 0), mask

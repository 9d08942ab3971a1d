"""Embedder: aligned encoders with their projections, everything to one vector of one space."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modules import parts
from modules.encoders.encoder import Encoder
from modules.projections import Projection


class Embedder(nn.Module):
    """Inputs of any set of modalities to unit vectors in the space that alignment gave them.

    Args:
        encoders: by modality.
        projections: by the same modalities.

    Raises:
        ValueError: when the two do not name the same modalities, or a projection has another width.
    """

    def __init__(self, encoders: Mapping[str, Encoder], projections: Mapping[str, Projection]) -> None:
        super().__init__()
        if set(encoders) != set(projections):
            raise ValueError(
                f"encoders for {', '.join(sorted(encoders))} but projections for {', '.join(sorted(projections))}: "
                "expected one of each for every modality"
            )
        for modality, encoder in encoders.items():
            width = projections[modality].in_dim
            if encoder.dim != width:
                raise ValueError(
                    f"the {modality} encoder is {encoder.dim} wide, its projection takes {width}: "
                    "take both from one run"
                )
        self.encoders = nn.ModuleDict(encoders)
        self.projections = nn.ModuleDict(projections)

    @classmethod
    def load(cls, folder: str | Path, allow: list[str] | None = None) -> "Embedder":
        """Load every `encoders.<modality>` and `projections.<modality>` of a run's `parts/` folder.

        Raises:
            PartError: when the folder holds none, or one is damaged.
        """
        found = parts.load_all(folder, ("encoders", "projections"), allow)
        return cls(found["encoders"], found["projections"]).eval()

    @property
    def dim(self) -> int:
        """Width of the shared space."""
        return next(iter(self.projections.values())).out_dim

    @property
    def input_configs(self) -> dict[str, dict[str, Any]]:
        """What each encoder's modality needs to know, by modality."""
        return {modality: encoder.input_config for modality, encoder in self.encoders.items()}

    def forward(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return unit vectors (rows, dim) for each modality of `inputs`."""
        return {modality: self.embed(modality, inputs[modality]) for modality in self._known(inputs)}

    def embed(self, modality: str, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return unit vectors (rows, dim) of one modality."""
        return embed(self.encoders[modality], self.projections[modality], inputs)

    def _known(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name in self.encoders]


def embed(encoder: Encoder, projection: Projection, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return unit vectors (rows, dim) of one modality's Inputs."""
    return nn.functional.normalize(projection(encoder(inputs)), dim=-1)

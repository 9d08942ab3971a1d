"""CachedEncoder: an encoder that does not encode, since `prepare` did: its features come out of the shards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from modules import parts
from modules.encoders.encoder import Encoder, as_encoder
from modules.tokens import Tokens


class CachedEncoder(Encoder):
    """Stands in for a frozen encoder whose features are cached: `forward` hands on what it is given.

    The encoder itself is loaded, frozen and handed over to the next stage as it is.

    Args:
        path: the part that made the features: a part folder, or `CHECKPOINT#part`.
        modality: under whose name the features were prepared; by default the last word of the part's name, as
            `image` in `encoders.image`.
        allow: packages outside this project whose classes the part's card may name.

    Raises:
        PartError: the part is missing or damaged.
        ValueError: it is no encoder, or its name says no modality.
    """

    def __init__(self, path: str, modality: str | None = None, allow: list[str] | None = None) -> None:
        super().__init__()
        self.path, self.modality = path, modality or modality_of(path)
        self.fingerprint = parts.fingerprint_of(path, allow)
        self.encoder = as_encoder(parts.load(path, allow), self.modality)
        self.encoder.requires_grad_(False)
        self.dim = self.encoder.dim

    @property
    def input_config(self) -> dict[str, Any]:
        return {
            "class_path": "datamodules.modalities.features.Features",
            "init_args": {
                "modality": self.modality,
                "encoder": self.fingerprint,
                "dim": self.dim,
                "part": self.path,
            },
        }

    def init_args(self) -> dict[str, Any]:
        return {"path": self.path, "modality": self.modality}

    def handed_over(self) -> Encoder:
        return self.encoder

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Return what was cached.

        Args:
            inputs: `features` (rows, tokens, dim), float16 or float32, and `mask` (rows, tokens), bool.
        """
        return Tokens(inputs["features"].float(), inputs["mask"])


def modality_of(path: str) -> str:
    """Return the last word of a part's name, as `image` in `runs/align/parts/encoders.image`.

    Raises:
        ValueError: the name has one word only.
    """
    group, _, modality = Path(path.rsplit("#", 1)[-1]).name.rpartition(".")
    if not group or not modality:
        raise ValueError(
            f"{path} is not named <group>.<modality>, such as encoders.image: say `modality` beside it"
        )
    return modality

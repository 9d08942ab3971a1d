"""units: the centroids of an audio tokenizer, found by k-means over a frozen encoder's tokens."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor


def units(
    encoder: Path,
    shards: str,
    out: Path,
    num_units: int = 100,
    max_tokens: int = 60_000,
    modality: str = "audio",
    batch_size: int = 32,
    allow: list[str] | None = None,
    seed: int = 0,
) -> None:
    """Make a tokenizer of sound: k-means over the tokens of an encoder, written as a part.

    Args:
        encoder: The folder of an encoder's part.
        shards: A folder of shards, or a pattern.
        out: The folder of the part to write.
        num_units: Clusters, which is the size of the codebook.
        max_tokens: Tokens of the encoder that are clustered.
        modality: What the encoder takes.
        batch_size: Samples at once.
        allow: Packages outside this project whose classes a part may name.
        seed: Of the first centroids.

    Raises:
        FileNotFoundError: when there are no shards.
        ValueError: when the part is no encoder, or there are fewer tokens than units.
    """
    from datamodules.modalities.build import build_modalities
    from datamodules.stream import batches
    from modules import parts
    from modules.encoders.discrete_units import DiscreteUnits
    from modules.encoders.encoder import as_encoder

    trunk = as_encoder(parts.load(str(encoder), allow), modality)
    tokenizer = DiscreteUnits(trunk, num_units=num_units, dim=trunk.dim)
    modalities = build_modalities({modality: trunk.input_config})

    def inputs() -> Iterator[dict[str, Tensor]]:
        for batch in batches(shards, modalities, batch_size, require=[modality]):
            yield batch.inputs[modality]

    distance = tokenizer.fit(inputs(), max_tokens=max_tokens, seed=seed)
    parts.save(tokenizer, out, stage="units", parents=[str(encoder)])
    print(f"{out}: {num_units} units, mean squared distance {distance:.4g}")

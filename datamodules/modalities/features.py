"""Features: what an encoder made of a sample's media, cached in shards, to tensors that stand in for the media.

A member such as `image.safetensors` holds `features` (tokens, dim), float16 or float32, and `mask` (tokens,), bool; its
header names the encoder by the sha256 of its part. It is read as safetensors and nothing else: no code, no pickle.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.build import Modality
from datamodules.shards.reader import ShardReader

MAX_HEADER_BYTES = 1 << 14
MAX_TOKENS = 1 << 20
DTYPES = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
Cached = tuple[np.ndarray, np.ndarray]
"""features (tokens, dim), float16 or float32, and mask (tokens,), bool."""


class FeaturesError(ValueError):
    """Cached features that are not those that the model asks for."""


def member_of(modality: str) -> str:
    """Return the suffix of the member that holds a modality's features."""
    return f"{modality}.safetensors"


def pack(features: np.ndarray, mask: np.ndarray, encoder: str) -> bytes:
    """Return features as the bytes of a member; padding behind the last real token is left out.

    Args:
        features: (tokens, dim), float16 or float32.
        mask: (tokens,), bool.
        encoder: sha256 of the part that made them.

    Raises:
        FeaturesError: a number is not finite.
    """
    from safetensors.numpy import save

    count = int(np.flatnonzero(mask)[-1]) + 1 if mask.any() else 0
    features = np.ascontiguousarray(features[:count])
    if not np.isfinite(features).all():
        raise FeaturesError(
            f"features as {features.dtype} hold NaN or infinity: write them as float32, or look at the encoder"
        )
    tensors = {"features": features, "mask": np.ascontiguousarray(mask[:count])}
    return save(tensors, metadata={"encoder": encoder})


@dataclass(frozen=True)
class Header:
    """What the first bytes of a member say of it."""

    encoder: str
    dtype: str
    tokens: int
    dim: int


def read_header(data: bytes) -> Header:
    """Return the header, once it is sure that it describes exactly these bytes.

    Raises:
        BadSample: it is no member of this kind, or is cut.
    """
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= size <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise BadSample("undecodable_features", f"{len(data)} bytes with a header of {size}")
    try:
        header = json.loads(data[8 : 8 + size])
        features, mask = header["features"], header["mask"]
        tokens, dim = features["shape"]
        found = Header(str(header["__metadata__"]["encoder"]), str(features["dtype"]), tokens, dim)
        about_mask = (mask["dtype"], mask["shape"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadSample("undecodable_features", f"not a header of features and mask ({error})") from error
    is_plain = (
        header.keys() == {"features", "mask", "__metadata__"}
        and found.dtype in DTYPES
        and all(type(number) is int and 0 <= number <= MAX_TOKENS for number in (tokens, dim))
        and about_mask == ("BOOL", [tokens])
    )
    if not is_plain:
        raise BadSample("undecodable_features", f"unexpected tensors: {str(header)[:300]}")
    expected = tokens * dim * DTYPES[found.dtype].itemsize + tokens
    if len(data) - 8 - size != expected:
        raise BadSample(
            "undecodable_features", f"{len(data) - 8 - size} bytes of tensors, expected {expected}"
        )
    return found


def unpack(data: bytes) -> Cached:
    """Return what `pack` was given, but for the padding.

    Raises:
        BadSample: the bytes are damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    read_header(data)
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise BadSample("undecodable_features", str(error)) from error
    return tensors["features"], tensors["mask"]


class Features:
    """Cached features to Inputs: `features` (rows, tokens, dim) and `mask` (rows, tokens) bool, padded with zeros.

    Args:
        modality: under whose name the features were prepared, such as `image`.
        encoder: sha256 of the part that must have made them.
        dim: width of the features.
        part: where that part is, for messages.
    """

    def __init__(self, modality: str, encoder: str, dim: int, part: str = "") -> None:
        self.encoder, self.dim, self.part = encoder, dim, part
        self.members = (member_of(modality),)

    def check(self, data: bytes, where: str) -> None:
        """Check that a member was made by the encoder.

        Raises:
            FeaturesError: it was made by another; names both.
        """
        found = read_header(data)
        if found.encoder != self.encoder:
            raise FeaturesError(
                f"{where} holds features made by the encoder {found.encoder}, expected {self.encoder}, which is "
                f"{self.part or 'the one in the config'}: prepare the features again with that part, or name the "
                "part that made them"
            )

    def decode(self, data: bytes, member: str) -> Cached:
        """Return features (tokens, dim) and mask (tokens,).

        Raises:
            BadSample: the bytes are damaged, were made by another encoder, or hold a number that is not finite.
        """
        header = read_header(data)
        if (header.encoder, header.dim) != (self.encoder, self.dim):
            raise BadSample(
                "features_of_another_encoder",
                f"{header.encoder} with {header.dim} numbers a token, expected {self.encoder} with {self.dim}",
            )
        features, mask = unpack(data)
        if not np.isfinite(features).all():
            raise BadSample("features_not_finite")
        return features, mask

    def augment(self, value: Cached, rng: np.random.Generator) -> Cached:
        return value

    def collate(self, values: list[Cached]) -> dict[str, Tensor]:
        count = max((len(mask) for _, mask in values), default=0)
        dtype = np.result_type(np.float16, *(features.dtype for features, _ in values))
        features = np.zeros((len(values), max(1, count), self.dim), dtype)
        mask = np.zeros(features.shape[:2], bool)
        for row, (one, real) in enumerate(values):
            features[row, : len(one)], mask[row, : len(real)] = one, real
        return {"features": torch.from_numpy(features), "mask": torch.from_numpy(mask)}


def check_features(reader: ShardReader, modalities: Mapping[str, Modality]) -> None:
    """Check, before anything is trained, that each shard's first features were made by the encoder that is asked for.

    Raises:
        FeaturesError: those of a shard were made by another.
    """
    for modality in modalities.values():
        if not isinstance(modality, Features):
            continue
        [member] = modality.members
        for tar, position in _first_with(reader, member):
            modality.check(reader.read(position, member), f"{tar}: {reader.key(position)}.{member}")


def _first_with(reader: ShardReader, member: str) -> list[tuple[Any, int]]:
    """Return for each shard that has the member the position of the first sample with it."""
    found, start = [], 0
    for tar, end in zip(reader.tars, reader.ends, strict=True):
        having = (position for position in range(start, end) if member in reader.extensions(position))
        found += [(tar, position) for position in islice(having, 1)]
        start = end
    return found

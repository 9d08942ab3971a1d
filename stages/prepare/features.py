"""FeatureCache: a frozen encoder's features, written into the shards once instead of computed in every epoch."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from datamodules.preparation.step import Step
from datamodules.sources.source import Dropped, Sample, read

if TYPE_CHECKING:
    from datamodules.modalities.build import Modality
    from datamodules.modalities.features import Cached
    from modules.encoders.encoder import Encoder


@dataclass
class FeatureCache(Step):
    """Add the member `<modality>.safetensors`: what an encoder's part makes of each sample's media.

    `align` and `instruct` read it with `modules.encoders.cached.CachedEncoder` and the same part. Samples without the
    modality are kept as they are; those that cannot be decoded are dropped under the reason that decoding gives.
    """

    encoder: str
    """The part: a folder, or `CHECKPOINT#part`."""
    modality: str | None = None
    """Under which name; by default the last word of the part's name, as image in encoders.image."""
    keep_media: bool = True
    """Whether the media stay beside the features. Without them shards are smaller and show nothing to people."""
    dtype: Literal["float16", "float32"] = "float16"
    """float16 halves the size; float32 is exact."""
    batch_size: int = 32
    """Media that are encoded at once."""
    cache: Path | None = None
    """A folder where features are kept by the sha256 of media and encoder, for the next set with the same media."""
    device: str = "cpu"
    """Where the encoder runs, such as cpu or cuda."""
    counts: dict[str, int] = field(
        default_factory=lambda: {"encoded": 0, "reused": 0, "without": 0}, init=False, repr=False
    )
    loaded: "tuple[Encoder, Modality] | None" = field(default=None, init=False, repr=False)
    store: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"FeatureCache.batch_size is {self.batch_size}, expected at least 1")

    @property
    def name(self) -> str:
        """The modality's name."""
        from modules.encoders.cached import modality_of

        return self.modality or modality_of(self.encoder)

    def identity(self) -> dict[str, Any]:
        """Return the encoder's fingerprint.

        Raises:
            PartError: the part is missing.
            ValueError: its name says no modality.
        """
        from modules import parts

        return {"modality": self.name, "encoder": parts.fingerprint_of(self.encoder)}

    def __call__(self, samples: list[Sample]) -> list[Sample | Dropped]:
        from datamodules.modalities.features import member_of
        from stages.embedding import member_for

        _, modality = self._load()
        members = [member_for(modality, sample) for sample in samples]
        digests = [
            None if member is None else hashlib.sha256(read(sample.members[member])).hexdigest()
            for sample, member in zip(samples, members, strict=True)
        ]
        first = {digest: place for place, digest in reversed(list(enumerate(digests))) if digest is not None}
        packed = {digest: data for digest in first if (data := self.store.get(digest)) is not None}
        missing = sorted((digest for digest in first if digest not in packed), key=first.__getitem__)
        found, bad = self._encode([samples[first[digest]] for digest in missing])
        new = {missing[number]: data for number, data in found.items()}
        self.store.add(new)
        reasons = {missing[number]: reason for number, reason in bad.items()}
        packed |= new

        outcome: list[Sample | Dropped] = []
        for sample, member, digest in zip(samples, members, digests, strict=True):
            if digest in reasons:
                outcome.append(Dropped(sample.name, reasons[digest], sample))
                continue
            if digest is None:
                outcome.append(sample)
                continue
            kept = {name: data for name, data in sample.members.items() if self.keep_media or name != member}
            outcome.append(replace(sample, members={**kept, member_of(self.name): packed[digest]}))
        having = sum(digest is not None and digest not in reasons for digest in digests)
        self._count(encoded=len(new), reused=having - len(new), without=digests.count(None))
        return outcome

    def report(self) -> dict[str, Any]:
        having = self.counts["encoded"] + self.counts["reused"]
        hit_rate = round(self.counts["reused"] / having, 4) if having else 0.0
        about = {**self.identity(), "dtype": self.dtype, **self.counts, "hit_rate": hit_rate}
        return {f"features.{self.name}": about}

    def state(self) -> dict[str, Any]:
        return dict(self.counts)

    def restore(self, state: Mapping[str, Any]) -> None:
        self.counts = dict(state)

    def _count(self, **more: int) -> None:
        for name, number in more.items():
            self.counts[name] += number

    def _load(self) -> "tuple[Encoder, Modality]":
        if self.loaded is None:
            from datamodules.modalities.build import build_modalities
            from modules import parts
            from modules.encoders.encoder import as_encoder
            from stages.prepare.feature_store import FeatureStore

            encoder = as_encoder(parts.load(self.encoder), self.name).eval().to(self.device)
            [modality] = build_modalities({self.name: self._input_config(encoder)}).values()
            self.fingerprint = parts.fingerprint_of(self.encoder)
            self.store = FeatureStore(self.cache, self.fingerprint, self._variant())
            self.loaded = encoder, modality
        return self.loaded

    def _encode(self, samples: Sequence[Sample]) -> tuple[dict[int, bytes], dict[int, str]]:
        """Return, by number of the sample, features as bytes, and why there are none."""
        import torch

        from datamodules.modalities.features import pack
        from stages.embedding import decode

        encoder, modality = self._load()
        decoded = decode(samples, modality)
        with torch.inference_mode():
            rows = self._rows(encoder, modality, decoded.values)
        packed = {
            place: pack(features, mask, self.fingerprint)
            for place, (features, mask) in zip(decoded.places, rows, strict=True)
        }
        return packed, {place: bad.reason.replace("_", " ") for place, bad in decoded.bad.items()}

    # ---- what other media do otherwise

    def _input_config(self, encoder: "Encoder") -> dict[str, Any]:
        """Say how bytes become what `_rows` takes."""
        return encoder.input_config

    def _variant(self) -> str:
        """Name what the features depend on beside media and encoder."""
        return self.dtype

    def _rows(self, encoder: "Encoder", modality: "Modality", values: Sequence[Any]) -> "list[Cached]":
        """Return features (tokens, dim) and mask (tokens,) of each value."""
        import torch

        from stages.embedding import in_batches

        rows: list[Cached] = []
        dtype = {"float16": torch.float16, "float32": torch.float32}[self.dtype]
        for inputs in in_batches(values, modality, self.batch_size, self.device):
            tokens = encoder(inputs)
            rows += zip(tokens.features.to("cpu", dtype).numpy(), tokens.mask.cpu().numpy(), strict=True)
        return rows

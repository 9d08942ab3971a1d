"""Filters for duplicates: the same bytes, the same picture in other bytes, the same text in a few other words.

Each names the earlier sample that the dropped one resembles. A sample is compared with those that were kept, one after
another, so of several alike the first stays; put these filters last, so that what stays is not dropped later.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from datamodules.preparation.cleaning.filter import Filter, Rejected
from datamodules.preparation.cleaning.hamming import HammingIndex
from datamodules.preparation.cleaning.images import grey
from datamodules.preparation.cleaning.packages import require
from datamodules.sources.source import IMAGE_SUFFIXES, Sample

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH
    from PIL.Image import Image

MIN_CONTRAST = 2.0
"""Standard deviation, in grey levels of 0 to 255, below which a perceptual hash is a hash of noise."""


@dataclass
class ExactDuplicates(Filter):
    """Drop samples whose members are all byte for byte those of an earlier sample."""

    seen: dict[bytes, str] = field(default_factory=dict, init=False, repr=False)

    def examine(self, sample: Sample) -> bytes:
        digest = hashlib.sha256()
        for suffix, data in sorted(sample.members.items()):
            digest.update(f"{suffix} {len(data)} ".encode())
            digest.update(data)
        return digest.digest()

    def judge(self, finding: bytes, key: str) -> Rejected | None:
        twin = self.seen.setdefault(finding, key)
        return None if twin == key else Rejected("exact duplicate", twin)


@dataclass
class NearDuplicateImages(Filter):
    """Drop samples whose image is an earlier one resized, compressed again, or cropped a little.

    By the perceptual hashes of the ImageHash library over the grey picture: colour plays no part. Images without
    contrast are not judged.
    """

    max_distance: int = 6
    """How many bits of the hash may differ; of 64 bits, unrelated pictures differ in about 32."""
    method: Literal["phash", "dhash"] = "phash"
    """By low frequencies (phash), or by gradients (dhash), which is faster and takes more pictures for the same."""
    hash_size: int = 8
    """Side of the hash, which has as many bits as its square; larger ones tell more pictures apart."""
    flips: bool = False
    """Whether a mirrored picture is a duplicate too."""
    index: HammingIndex = field(init=False, repr=False)
    keys: list[str] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        require("imagehash", extra="clean")
        if self.hash_size < 4:
            raise ValueError(f"NearDuplicateImages.hash_size is {self.hash_size}, expected 4 or more")
        self.index = HammingIndex(self.hash_size**2, self.max_distance)

    def examine(self, sample: Sample) -> tuple[int, ...]:
        image = next(
            (data for suffix, data in sorted(sample.members.items()) if suffix in IMAGE_SUFFIXES), None
        )
        picture = None if image is None else grey(image, side=8 * self.hash_size)
        if picture is None or contrast(picture) < MIN_CONTRAST:
            return ()
        return (self.hash(picture), self.hash(mirrored(picture))) if self.flips else (self.hash(picture),)

    def judge(self, finding: tuple[int, ...], key: str) -> Rejected | None:
        if not finding:
            return None
        found = [near for code in finding if (near := self.index.nearest(code))]
        if found:
            return Rejected("near-duplicate image", self.keys[min(found)[1]])
        self.index.add(finding[0])
        self.keys.append(key)
        return None

    def hash(self, picture: "Image") -> int:
        """Return the perceptual hash of a grey picture."""
        import imagehash

        bits = {"phash": imagehash.phash, "dhash": imagehash.dhash}[self.method](
            picture, hash_size=self.hash_size
        ).hash
        return int.from_bytes(_packed(bits), "big")


def _packed(bits: Any) -> bytes:
    import numpy as np

    flat = bits.flatten()
    return np.packbits(np.pad(flat, (-len(flat) % 8, 0))).tobytes()  # leading zeros do not change the number


def contrast(picture: "Image") -> float:
    """Return the standard deviation of a grey picture made small, in grey levels."""
    from PIL import ImageStat

    return ImageStat.Stat(picture.resize((32, 32))).stddev[0]


def mirrored(picture: "Image") -> "Image":
    """Return a picture with left and right exchanged."""
    from PIL import ImageOps

    return ImageOps.mirror(picture)


@dataclass
class NearDuplicateTexts(Filter):
    """Drop samples whose text is an earlier one with a few letters or words changed.

    Texts are sets of shingles, runs of characters without case, punctuation and white space; MinHash estimates the
    Jaccard similarity of two such sets, locality-sensitive hashing finds whom to compare with (Broder, 1997; Leskovec,
    Rajaraman and Ullman, Mining of Massive Datasets, chapter 3; both by the datasketch library). The estimate of a
    similarity of 0.8 by 128 values has a standard error of 0.035.
    """

    min_similarity: float = 0.8
    """Estimated Jaccard similarity, from 0 to 1, from which on two texts count as one."""
    shingle_characters: int = 5
    """Length of a shingle; longer ones make small changes weigh more."""
    num_hashes: int = 128
    """Values in a MinHash; the more, the better the estimate, and the more memory (4 bytes each and text)."""
    lsh: "MinHashLSH | None" = field(default=None, init=False, repr=False)
    signatures: list["MinHash"] = field(default_factory=list, init=False, repr=False)
    keys: list[str] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        require("datasketch", extra="clean")
        if not 0 < self.min_similarity < 1:
            raise ValueError(
                f"NearDuplicateTexts.min_similarity is {self.min_similarity}, expected between 0 and 1; "
                "for equal ones use ExactDuplicates"
            )
        if self.shingle_characters < 1 or self.num_hashes < 16:
            raise ValueError(
                f"NearDuplicateTexts: shingle_characters is {self.shingle_characters}, expected at least 1, "
                f"and num_hashes {self.num_hashes}, expected at least 16"
            )

    def examine(self, sample: Sample) -> bytes:
        shingles = self.shingles(sample.members["txt"].decode()) if "txt" in sample.members else set()
        if not shingles:
            return b""
        signature = empty_signature(self.num_hashes).copy()
        signature.update_batch([shingle.encode() for shingle in shingles])
        return signature.hashvalues.astype("<u4").tobytes()

    def judge(self, finding: bytes, key: str) -> Rejected | None:
        if not finding:
            return None
        signature = self._signature(finding)
        if self.lsh is None:
            from datasketch import MinHashLSH

            # Rather a candidate too many, which the estimate rules out, than one missed.
            self.lsh = MinHashLSH(self.min_similarity, self.num_hashes, weights=(0.1, 0.9))
        similar = [
            (-signature.jaccard(self.signatures[number]), number) for number in self.lsh.query(signature)
        ]
        nearest = min(similar, default=None)
        if nearest is not None and -nearest[0] >= self.min_similarity:
            return Rejected("near-duplicate text", self.keys[nearest[1]])
        self.lsh.insert(len(self.keys), signature)
        self.signatures.append(signature)
        self.keys.append(key)
        return None

    def shingles(self, text: str) -> set[str]:
        """Return the runs of `shingle_characters` of a text; of a shorter one the whole."""
        letters = "".join(filter(str.isalnum, text.casefold()))
        count = max(1, len(letters) - self.shingle_characters + 1)
        return {letters[start : start + self.shingle_characters] for start in range(count)} - {""}

    def _signature(self, finding: bytes) -> "MinHash":
        import numpy as np

        signature = empty_signature(self.num_hashes).copy()
        signature.hashvalues = np.frombuffer(finding, dtype="<u4").astype(np.uint32)
        return signature


@cache
def empty_signature(num_hashes: int) -> "MinHash":
    """Return a MinHash of nothing; its permutations, slow to draw, are drawn once per process."""
    from datasketch import MinHash

    return MinHash(num_hashes, seed=1, scheme="affine32")

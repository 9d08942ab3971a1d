"""Quality signals: how sharp, well exposed, noisy or clean a sample's media are, as numbers beside them in the shards.

Training may weigh or select by them; nothing is dropped here but by `LowQuality`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from datamodules.preparation.cleaning.filter import Filter, Reject
from datamodules.preparation.cleaning.images import grey
from datamodules.preparation.cleaning.sounds import measure
from datamodules.sources.source import IMAGE_SUFFIXES, SOUND_SUFFIXES, Sample

if TYPE_CHECKING:
    import numpy as np

MEMBER = "quality.json"
SIDE = 256
"""Pictures are brought to this shorter side, in pixels: sharpness depends on the scale it is looked at."""
SHARP_VARIANCE = 500.0
LOUD_DB = 40.0

Signals = dict[str, dict[str, float]]


@dataclass
class Quality:
    """Add the member `quality.json` to every sample: modality -> signal -> a number from 0 (bad) to 1 (good).

    A modality that a sample lacks, or that cannot be decoded, has no entry.
    """

    digits: int = 4
    """Decimal places that are kept."""

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample with its signals; its members are bytes."""
        rounded = {
            modality: {name: round(value, self.digits) for name, value in found.items()}
            for modality, found in signals(sample).items()
        }
        return replace(
            sample, members={**sample.members, MEMBER: json.dumps(rounded, sort_keys=True).encode()}
        )


@dataclass
class LowQuality(Filter):
    """Drop samples with a signal below a bound."""

    minimum: dict[str, float]
    """The least that is kept, by `modality.signal`, such as {image.sharpness: 0.05, audio.unclipped: 0.99}."""

    def __post_init__(self) -> None:
        known = sorted(f"{modality}.{name}" for modality, names in SIGNALS.items() for name in names)
        if unknown := sorted(set(self.minimum) - set(known)):
            raise ValueError(
                f"LowQuality.minimum names {', '.join(unknown)}; the signals are {', '.join(known)}"
            )

    def examine(self, sample: Sample) -> None:
        found = signals(sample, {bound.partition(".")[0] for bound in self.minimum})
        for name, least in self.minimum.items():
            modality, _, signal = name.partition(".")
            if found.get(modality, {}).get(signal, 1.0) < least:
                raise Reject(f"low {modality} {signal}")


def signals(sample: Sample, modalities: set[str] | None = None) -> Signals:
    """Return modality -> signal -> value in [0, 1] of a loaded sample.

    Args:
        sample: its members are bytes.
        modalities: those to look at; all by default.
    """
    found: Signals = {}
    for suffix, data in sample.members.items():
        for modality, (suffixes, look) in LOOKS.items():
            if suffix in suffixes and (modalities is None or modality in modalities):
                values = look(data)
                if values:
                    found[modality] = values
    return found


def of_image(data: bytes) -> dict[str, float]:
    """Return an image's signals; none where it cannot be decoded.

    sharpness: variance of the Laplacian at 256 pixels of shorter side (Pech-Pacheco et al., ICPR 2000), as
        v / (v + 500), so 0.5 at a variance of 500; noise looks sharp too.
    exposure: 1 for a mean in the middle of the grey levels, 0 for all black or all white.
    contrast: standard deviation of the grey levels over the largest possible, 127.5.
    unclipped: share of pixels that are neither black nor white.
    """
    import numpy as np

    picture = grey(data, SIDE)
    if picture is None:
        return {}
    scale = SIDE / min(picture.size)
    picture = picture.resize((max(3, round(picture.width * scale)), max(3, round(picture.height * scale))))
    levels = np.asarray(picture, dtype=np.float32)  # (height, width), 0 to 255
    variance = float(laplacian(levels).var())
    return {
        "sharpness": variance / (variance + SHARP_VARIANCE),
        "exposure": 1 - abs(float(levels.mean()) - 127.5) / 127.5,
        "contrast": min(1.0, float(levels.std()) / 127.5),
        "unclipped": float(((levels > 2) & (levels < 253)).mean()),
    }


def laplacian(levels: "np.ndarray") -> "np.ndarray":
    """Return the discrete Laplacian (height - 2, width - 2): the four neighbours less four times the middle."""
    neighbours = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    return neighbours - 4 * levels[1:-1, 1:-1]


def of_sound(data: bytes) -> dict[str, float]:
    """Return a sound's signals; none where it cannot be decoded.

    loudness: level of the whole, 0 at -60 dBFS and below, 1 at 0 dBFS.
    snr: loudest over quietest tenth of windows of 20 ms, 1 at 40 dB and more; low too for sound without pauses.
    unclipped: share of values that are not at full scale.
    sounding: share of windows that are not silent.
    """
    levels = measure(data)
    if levels is None:
        return {}
    return {
        "loudness": min(1.0, max(0.0, 1 + levels.dbfs / 60)),
        "snr": min(1.0, max(0.0, levels.snr_db / LOUD_DB)),
        "unclipped": 1 - levels.clipped_share,
        "sounding": 1 - levels.silent_share,
    }


def of_text(data: bytes) -> dict[str, float]:
    """Return a text's signals.

    letters: share of letters, marks and white space among all characters: low for codes, prices, lists of tags.
    variety: different words over words, 1 when none is repeated.
    """
    text = data.decode("utf-8", "replace")
    words = text.casefold().split()
    if not words:
        return {"letters": 0.0, "variety": 0.0}
    plain = sum(character.isalpha() or character.isspace() for character in text)
    return {"letters": plain / len(text), "variety": len(set(words)) / len(words)}


LOOKS: dict[str, tuple[frozenset[str], Callable[[bytes], dict[str, float]]]] = {
    "image": (IMAGE_SUFFIXES, of_image),
    "audio": (SOUND_SUFFIXES, of_sound),
    "text": (frozenset({"txt"}), of_text),
}
SIGNALS = {
    "image": ("sharpness", "exposure", "contrast", "unclipped"),
    "audio": ("loudness", "snr", "unclipped", "sounding"),
    "text": ("letters", "variety"),
}

"""SoundChunks: long sound cut into pieces of some seconds."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.sounds import open_sound
from datamodules.preparation.chunks.cutter import Cutter, Piece
from datamodules.preparation.cleaning.filter import Reject
from datamodules.preparation.cleaning.media import check_sound
from datamodules.sources.source import SOUND_SUFFIXES, Member, read

DEPTHS = {"PCM_S8": "PCM_16", "PCM_U8": "PCM_16", "PCM_16": "PCM_16", "PCM_24": "PCM_24", "PCM_32": "PCM_24"}
"""How integers of each kind are kept; floats of WAV as 24 bit, what was compressed with loss as 16 bit."""
MAX_FLAC_CHANNELS = 8


@dataclass
class SoundChunks(Cutter):
    """Cuts sound to the sample; rate and channels stay, and so do the samples of FLAC and 16 or 24 bit WAV."""

    seconds: float = 30.0
    """Length of a chunk; the last may be shorter, but is longer than the overlap."""
    overlap_s: float = 2.0
    """What two neighbours share."""
    max_seconds: float = 24 * 3600.0
    """Longer sounds are dropped."""

    suffixes = SOUND_SUFFIXES
    suffix = "flac"
    unit = "samples"

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_s <= self.seconds / 2:
            raise ValueError(
                f"overlap_s is {self.overlap_s}; expected 0 to {self.seconds / 2:g}, half of seconds"
            )

    def is_long(self, member: Member) -> bool:
        try:
            with open_sound(read(member)) as sound:
                return sound.frames > round(self.seconds * sound.samplerate)
        except (OSError, BadSample):
            return False

    def scale(self, member: Member) -> dict[str, Any]:
        with open_sound(read(member)) as sound:
            return {"per_second": sound.samplerate}

    def cut(self, member: Member) -> Iterator[Piece]:
        import numpy
        import soundfile

        data = read(member)
        # All of it first: what is cut off must not pass as a few good chunks.
        check_sound(data, 0.0, self.max_seconds)
        with open_sound(data) as sound:
            if sound.channels > MAX_FLAC_CHANNELS:
                raise Reject("too many channels")
            depth = DEPTHS.get(sound.subtype, "PCM_24" if sound.subtype in ("FLOAT", "DOUBLE") else "PCM_16")
            dtype = {"PCM_16": "int16", "PCM_24": "int32"}[depth] if sound.subtype in DEPTHS else "float32"
            length = round(self.seconds * sound.samplerate)
            hop = length - round(self.overlap_s * sound.samplerate)
            held, start = sound.read(length, dtype=dtype, always_2d=True), 0
            while True:
                more = sound.read(hop, dtype=dtype, always_2d=True)
                piece = numpy.clip(held, -1, 1) if dtype == "float32" else held
                file = io.BytesIO()
                soundfile.write(file, piece, sound.samplerate, format="FLAC", subtype=depth)
                yield Piece(start, start + len(held), file.getvalue())
                if not len(more):
                    return
                held, start = numpy.concatenate([held[hop:], more]), start + hop

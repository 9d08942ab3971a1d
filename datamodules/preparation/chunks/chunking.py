"""Chunks: long texts, sounds and videos are cut into samples that overlap, so that each fits a model's window."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from datamodules.preparation.chunks.cutter import Cutter
from datamodules.preparation.chunks.sound import SoundChunks
from datamodules.preparation.chunks.text import TextChunks
from datamodules.preparation.chunks.video import VideoChunks
from datamodules.preparation.cleaning.filter import Reject
from datamodules.sources.source import Sample

PLACE = "chunk.json"
"""The member that tells where in the whole a chunk lies."""


@dataclass
class Chunks:
    """Cuts the one member of a sample that is long; the others are repeated in each chunk.

    A caption, a label or a picture tells of all of a long sound, and a picture of all of a long text. Where two members
    are long, nothing says which words go with which seconds: such a sample is dropped as `several long members`. Cut
    along subtitles instead (`SubtitledVideos`). The sound of a video lies in the video, and is cut with its pictures.

    Chunks have the keys `<key>-c000`, `<key>-c001`, …, and a member `chunk.json` that says where each lies:
    `{"of": key, "number": 0, "member": "flac", "unit": "samples", "start": 0, "end": 480000, "per_second": 16000}`.
    """

    text: TextChunks | None = None
    """How `.txt` is cut."""
    sound: SoundChunks | None = None
    """How `.flac`, `.wav`, `.mp3` and `.ogg` are cut; the pieces are `.flac`."""
    video: VideoChunks | None = None
    """How `.mp4`, `.mkv` and `.webm` are cut; the pieces are `.mp4`."""

    def __call__(self, sample: Sample) -> Iterator[Sample]:
        """Yield a sample's chunks, or itself where nothing is long.

        Raises:
            Reject: several of its members are long, or the long one cannot be read.
        """
        cutters: list[Cutter] = [each for each in (self.text, self.sound, self.video) if each is not None]
        long = [
            (suffix, cutter)
            for suffix, member in sample.members.items()
            for cutter in cutters
            if suffix in cutter.suffixes and cutter.is_long(member)
        ]
        if not long:
            yield sample
            return
        if len(long) > 1:
            raise Reject("several long members")
        [(suffix, cutter)] = long
        rest = {name: member for name, member in sample.members.items() if name != suffix}
        scale = cutter.scale(sample.members[suffix])
        for number, piece in enumerate(cutter.cut(sample.members[suffix])):
            place = {
                "of": sample.key,
                "number": number,
                "member": cutter.suffix,
                "unit": cutter.unit,
                "start": piece.start,
                "end": piece.end,
                **scale,
            }
            members = {**rest, cutter.suffix: piece.data, PLACE: json.dumps(place).encode()}
            yield replace(
                sample,
                key=f"{sample.key}-c{number:03d}",
                members=members,
                name=f"{sample.name}, chunk {number}",
            )

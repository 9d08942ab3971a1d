"""VoxCeleb 1 and 2: `wav/id10001/1zcIwhmdeo4/00001.wav`, `aac/id00012/21Uxsk56VDQ/00001.m4a`."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from dataclasses import replace as replaced
from pathlib import Path

from datamodules.preparation.encoding import flac
from datamodules.preparation.video.reading import SAMPLING_RATE, VideoError, read_sound
from datamodules.sources.annotations import BadRecord, json_bytes, read_lines, read_rows, require_files
from datamodules.sources.source import SOUND_SUFFIXES, Dropped, Note, Sample, Source, key_of, walk

SPEAKER = re.compile(r"id\d{5}")
META = ("vox1_meta.csv", "vox2_meta.csv")


@dataclass
class VoxCeleb(Source):
    """Speech labelled with its speaker: `id10001` is the class, what the list of speakers says is metadata."""

    path: Path
    """The folder that `wav` or `aac` lies in, at any depth."""
    meta: Path | None = None
    """The list of speakers; by default `vox1_meta.csv` and `vox2_meta.csv` in `path`, where they are."""
    max_seconds: float = 3600.0
    """Longer .m4a files are dropped."""

    def files(self) -> list[Path]:
        return [*self.sounds(), *self.lists()] if self.sounds() else []

    def sounds(self) -> list[Path]:
        """Return the sounds that lie in a speaker's folder."""
        found = walk(self.path, SOUND_SUFFIXES | {"m4a"})
        return [file for file in found if self.speaker_of(file)]

    def lists(self) -> list[Path]:
        """Return the lists of speakers."""
        if self.meta:
            return [Path(self.path) / self.meta]
        return [Path(self.path) / name for name in META if (Path(self.path) / name).is_file()]

    def check(self) -> None:
        if self.meta:
            require_files(meta=Path(self.path) / self.meta)
        super().check()
        self.speakers()

    def expects(self) -> str:
        return "SPEAKER/VIDEO/00001.wav or .m4a, where the speaker's folder is named id and five digits"

    def __len__(self) -> int:
        return len(self.sounds())

    def __iter__(self) -> Iterator[Sample | Dropped]:
        known = self.speakers()
        for file in self.sounds():
            speaker = self.speaker_of(file)
            name = file.relative_to(self.path).as_posix()
            about = json_bytes({"speaker": speaker, "video": file.parent.name, **known.get(speaker, {})})
            members = {file.suffix[1:].lower(): file, "cls": speaker.encode(), "json": about}
            yield Sample(key_of(name.removesuffix(file.suffix)), members, name)

    def expand(self, sample: Sample) -> Iterator[Sample | Dropped | Note]:
        """Decode AAC into FLAC of 16 kHz; what is WAV or FLAC stays as it is."""
        if "m4a" not in sample.members:
            yield sample
            return
        members = dict(sample.members)
        try:
            sound = flac(read_sound(members.pop("m4a"), self.max_seconds), SAMPLING_RATE)
        except (VideoError, OSError) as error:
            yield Dropped(f"{sample.name} ({error})", "undecodable sound")
            return
        yield replaced(sample, members={"flac": sound, **members})

    def speaker_of(self, file: Path) -> str:
        """Return the name of the speaker's folder that the file lies in, or nothing."""
        parts = file.relative_to(self.path).parts[:-1]
        return next((part for part in parts if SPEAKER.fullmatch(part)), "")

    def report(self, folder: Path, notes: Sequence[Note] = ()) -> dict:
        return {"classes": sorted({self.speaker_of(file) for file in self.sounds()})}

    def speakers(self) -> dict[str, dict[str, str]]:
        """Return what the lists say of each speaker; VoxCeleb1's has tabs between the fields, VoxCeleb2's commas."""
        speakers = {}
        for file in self.lists():
            _, header = next(read_lines(file), ("", ""))
            column = "VoxCeleb2 ID" if "VoxCeleb2" in str(header) else "VoxCeleb1 ID"
            for _, row in read_rows(file, (column,), delimiter="\t" if "\t" in str(header) else ","):
                if not isinstance(row, BadRecord):
                    speakers[row[column]] = {key.lower(): row[key] for key in row if key != column}
        return speakers

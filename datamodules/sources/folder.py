"""A folder of media with side-car files: the files of one stem are one sample."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from datamodules.sources.source import IMAGE_SUFFIXES, SOUND_SUFFIXES, Dropped, Sample, Source, key_of, walk

KINDS = {
    **dict.fromkeys(IMAGE_SUFFIXES, "image"),
    **dict.fromkeys(SOUND_SUFFIXES, "sound"),
    "txt": "text",
    "cls": "class",
    "num": "number",
}


@dataclass
class Folder(Source):
    """Side-car files: `000123.jpg`, `000123.txt` and `000123.flac` are one sample, any of them may be missing.

    So are `000123.cls`, the name of a class, and `000123.num`, a number.
    """

    path: Path
    """The folder; those below it are walked as well."""

    def files(self) -> list[Path]:
        return walk(self.path, frozenset(KINDS))

    def expects(self) -> str:
        return f"files ending in {', '.join(sorted(KINDS))}, those of one sample with one stem"

    def __len__(self) -> int:
        return len({file.with_suffix("") for file in self.files()})

    def __iter__(self) -> Iterator[Sample | Dropped]:
        by_stem = sorted(self.files(), key=lambda file: (file.with_suffix(""), file.suffix))
        for stem, files in groupby(by_stem, key=lambda file: file.with_suffix("")):
            name = stem.relative_to(self.path).as_posix()
            members = {file.suffix[1:].lower(): file for file in files}
            kinds = [KINDS[suffix] for suffix in members]
            if len(set(kinds)) < len(kinds):
                yield Dropped(name, "several files of one modality")
            else:
                yield Sample(key_of(name), members, name)

"""A folder of media with side-car files: the files of one stem are one sample."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from datamodules.sources.source import (
    IMAGE_SUFFIXES,
    SOUND_SUFFIXES,
    Dropped,
    Sample,
    Source,
    key_of,
    walk,
    with_own,
)

KINDS = {
    "image": IMAGE_SUFFIXES,
    "sound": SOUND_SUFFIXES,
    "text": frozenset({"txt"}),
    "class": frozenset({"cls"}),
    "number": frozenset({"num"}),
}


@dataclass
class Folder(Source):
    """Side-car files: `000123.jpg`, `000123.txt` and `000123.flac` are one sample, any of them may be missing.

    So are `000123.cls`, the name of a class, and `000123.num`, a number.
    """

    path: Path
    """The folder; those below it are walked as well."""
    suffixes: dict[str, list[str]] = field(default_factory=dict)
    """Suffixes of modalities of your own, such as `{imu: [csv]}`, beside images, sounds and texts."""

    def __post_init__(self) -> None:
        kinds = with_own(KINDS, self.suffixes)
        self.kinds = {suffix: kind for kind, suffixes in kinds.items() for suffix in suffixes}

    def files(self) -> list[Path]:
        return walk(self.path, frozenset(self.kinds))

    def expects(self) -> str:
        return f"files ending in {', '.join(sorted(self.kinds))}, those of one sample with one stem"

    def __len__(self) -> int:
        return len({file.with_suffix("") for file in self.files()})

    def __iter__(self) -> Iterator[Sample | Dropped]:
        by_stem = sorted(self.files(), key=lambda file: (file.with_suffix(""), file.suffix))
        for stem, files in groupby(by_stem, key=lambda file: file.with_suffix("")):
            name = stem.relative_to(self.path).as_posix()
            members = {file.suffix[1:].lower(): file for file in files}
            kinds = [self.kinds[suffix] for suffix in members]
            if len(set(kinds)) < len(kinds):
                yield Dropped(name, "several files of one modality")
            else:
                yield Sample(key_of(name), members, name)

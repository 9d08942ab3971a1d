"""A folder per class (as ImageNet's or Speech Commands'): the folder's name is the label of its images or sounds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.sources.source import (
    IMAGE_SUFFIXES,
    SOUND_SUFFIXES,
    Dropped,
    Note,
    Sample,
    Source,
    key_of,
    walk,
)


@dataclass
class ClassFolder(Source):
    """Labelled media: `zero/00012.png` is a sample of class `zero`; the class name goes into the `.cls` member."""

    path: Path
    """The folder that holds one folder per class."""

    def files(self) -> list[Path]:
        found = walk(self.path, IMAGE_SUFFIXES | SOUND_SUFFIXES)
        return [file for file in found if file.parent != Path(self.path)]

    def expects(self) -> str:
        return "one folder per class with images or sounds in it"

    def classes(self) -> list[str]:
        """Return the names of the classes that hold media, sorted."""
        return sorted({self.class_of(file) for file in self.files()})

    def class_of(self, file: Path) -> str:
        """Return the name of the class that `file` lies in: the first folder below `path`."""
        return file.relative_to(self.path).parts[0]

    def report(self, folder: Path, notes: Sequence[Note] = ()) -> dict:
        return {"classes": self.classes()}

    def __iter__(self) -> Iterator[Sample | Dropped]:
        for file in self.files():
            name = file.relative_to(self.path).as_posix()
            members = {file.suffix[1:].lower(): file, "cls": self.class_of(file).encode()}
            yield Sample(key_of(name.removesuffix(file.suffix)), members, name)

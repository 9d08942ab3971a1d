"""A folder per class (as ImageNet's or Speech Commands'): the folder's name is the label of its images or sounds."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.sources.annotations import read_lines, require_files
from datamodules.sources.source import (
    IMAGE_SUFFIXES,
    SOUND_SUFFIXES,
    Dropped,
    Note,
    Sample,
    Source,
    key_of,
    walk,
    with_own,
)

KINDS = {"image": IMAGE_SUFFIXES, "sound": SOUND_SUFFIXES}


@dataclass
class ClassFolder(Source):
    """Labelled media: `zero/00012.png` is a sample of class `zero`; the class name goes into the `.cls` member."""

    path: Path
    """The folder that holds one folder per class."""
    names: Path | None = None
    """A file of folder names with what they mean, such as ImageNet's `LOC_synset_mapping.txt`, whose lines are like
    `n01440764 tench, Tinca tinca`; classes then bear these names, in the order of the folders."""
    suffixes: dict[str, list[str]] = field(default_factory=dict)
    """Suffixes of modalities of your own, such as `{imu: [csv]}`, beside images and sounds."""

    def __post_init__(self) -> None:
        self.walked = frozenset().union(*with_own(KINDS, self.suffixes, taken="cls").values())

    def files(self) -> list[Path]:
        media = self.media()
        return [*media, Path(self.names)] if media and self.names else media

    def media(self) -> list[Path]:
        """Return the media that lie in a folder below `path`."""
        depth = len(Path(self.path).parts) + 1
        found = walk(self.path, self.walked)
        return [file for file in found if len(file.parts) > depth]

    def expects(self) -> str:
        return f"one folder per class with files in it that end in {', '.join(sorted(self.walked))}"

    def check(self) -> None:
        super().check()
        if self.names:
            require_files(names=Path(self.names))
            if not any(folder in self.meanings() for folder in self.folders()):
                raise ValueError(
                    f"{self.names} names none of the folders in {self.path}, the first of which is "
                    f"{self.folders()[0]}; expected lines such as `n01440764 tench, Tinca tinca`."
                )

    def folders(self) -> list[str]:
        """Return the names of the folders that hold media, sorted."""
        return sorted({self.folder_of(file) for file in self.media()})

    def folder_of(self, file: Path) -> str:
        """Return the first folder below `path` that `file` lies in."""
        return file.relative_to(self.path).parts[0]

    def meanings(self) -> dict[str, str]:
        """Return folder -> class; where two folders mean the same, as ImageNet's two cranes, the folder is added."""
        lines = [line for _, line in read_lines(Path(self.names))] if self.names else []
        pairs = [line.split(None, 1) for line in lines if isinstance(line, str)]
        named = {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
        times = Counter(named.values())
        return {folder: f"{name} ({folder})" if times[name] > 1 else name for folder, name in named.items()}

    def report(self, folder: Path, notes: Sequence[Note] = ()) -> dict:
        meanings = self.meanings()
        return {"classes": [meanings.get(name, name) for name in self.folders()]}

    def __iter__(self) -> Iterator[Sample | Dropped]:
        meanings = self.meanings()
        for file in self.media():
            folder = self.folder_of(file)
            name = file.relative_to(self.path).as_posix()
            members = {file.suffix[1:].lower(): file, "cls": meanings.get(folder, folder).encode()}
            yield Sample(key_of(name.removesuffix(file.suffix)), members, name)

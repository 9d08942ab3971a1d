"""Open Images: `train/000002b66c9c498e.jpg`, what people found in it in a CSV, and the classes' names in another."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

from datamodules.sources.annotations import (
    BadRecord,
    Records,
    check_records,
    json_bytes,
    media_below,
    read_rows,
    require_files,
    samples_of,
)
from datamodules.sources.source import IMAGE_SUFFIXES, Dropped, Sample, Source, key_of, walk

LABEL_COLUMNS = ("ImageID", "LabelName", "Confidence")
ABOUT_COLUMNS = ("ImageID", "OriginalURL", "License", "Author", "Title", "Rotation")
MAX_ROWS = 10_000
"""More rows of one image than this are left out; there are some 700 at most."""


@dataclass
class OpenImages(Source):
    """Images with the names of what people verified in them as text; what is not in them goes into the metadata."""

    path: Path
    """The folder of the data set."""
    labels: Path = Path("oidv7-train-annotations-human-imagelabels.csv")
    """`ImageID,Source,LabelName,Confidence`, an image's rows together; relative to `path`."""
    descriptions: Path = Path("oidv7-class-descriptions.csv")
    """`LabelName,DisplayName`, with or without that header; relative to `path`."""
    images: Path = Path("train")
    """The folder of the images; relative to `path`."""
    about: Path | None = None
    """`train-images-boxable-with-rotation.csv`: adds licence, author, title and rotation to the metadata of images
    that are there; relative to `path`."""
    min_confidence: float = 0.5
    """A label with less is not in the image; people give 0 or 1, machines anything between."""

    def files(self) -> list[Path]:
        return [*self.tables().values(), *walk(Path(self.path) / self.images, IMAGE_SUFFIXES)]

    def tables(self) -> dict[str, Path]:
        """Return the CSV files by argument."""
        named = {"labels": self.labels, "descriptions": self.descriptions, "about": self.about}
        return {argument: Path(self.path) / file for argument, file in named.items() if file}

    def check(self) -> None:
        if Path(self.path).exists():
            require_files(**self.tables())
        super().check()
        check_records(self.rows("labels", LABEL_COLUMNS), self.tables()["labels"], "rows of labels")
        if not self.names():
            raise ValueError(f"{self.tables()['descriptions']} holds no row of label and name.")
        if self.about:
            check_records(self.rows("about", ABOUT_COLUMNS), self.tables()["about"], "rows of images")

    def __len__(self) -> int:
        return len(walk(Path(self.path) / self.images, IMAGE_SUFFIXES))

    def __iter__(self) -> Iterator[Sample | Dropped]:
        names, about = self.names(), self.about_images()
        root, seen = (Path(self.path) / self.images).resolve(), set()

        def labelled(name: str, image: tuple[str, list[dict[str, str]]]) -> Iterator[Sample]:
            identifier, rows = image
            if identifier in seen:
                raise BadRecord("rows of one image lie apart")
            file = media_below(root, f"{identifier}.jpg", IMAGE_SUFFIXES, "image")
            present, absent = [], []
            for row in rows:
                shown = names.get(row["LabelName"])
                if shown is None:
                    raise BadRecord("label without a name")
                (present if is_at_least(row["Confidence"], self.min_confidence) else absent).append(shown)
            present = list(dict.fromkeys(present))
            if not present:
                raise BadRecord("no label is in the image")
            seen.add(identifier)
            found = {"labels": present, "absent": list(dict.fromkeys(absent)), **about.get(identifier, {})}
            members = {"jpg": file, "txt": ", ".join(present).encode(), "json": json_bytes(found)}
            yield Sample(key_of(identifier), members, identifier)

        yield from samples_of(self.labelled_images(), labelled)

    def labelled_images(self) -> Records:
        """Yield each image with the rows of its labels, which follow one another."""
        rows = self.rows("labels", LABEL_COLUMNS)
        for identifier, group in groupby(
            rows, lambda row: "" if isinstance(row[1], BadRecord) else row[1]["ImageID"]
        ):
            listed = list(islice(group, MAX_ROWS))
            if identifier:
                yield identifier, (identifier, [row for _, row in listed])
            else:
                yield from ((name, bad_row(row)) for name, row in listed)

    def rows(self, argument: str, columns: tuple[str, ...], has_header: bool = True) -> Records:
        """Yield the rows of one of the CSV files."""
        return read_rows(self.tables()[argument], columns, has_header=has_header)

    def names(self) -> dict[str, str]:
        """Return each label's display name."""
        rows = self.rows("descriptions", ("LabelName", "DisplayName"), has_header=False)
        return {row["LabelName"]: row["DisplayName"] for _, row in rows if not isinstance(row, BadRecord)}

    def about_images(self) -> dict[str, dict[str, str]]:
        """Return what the list of images says of those that are there."""
        if not self.about:
            return {}
        there = {file.stem for file in walk(Path(self.path) / self.images, IMAGE_SUFFIXES)}
        return {
            row["ImageID"]: {column.lower(): row[column] for column in ABOUT_COLUMNS[1:]}
            for _, row in self.rows("about", ABOUT_COLUMNS)
            if not isinstance(row, BadRecord) and row["ImageID"] in there
        }


def bad_row(row: object) -> BadRecord:
    """Return why a row without an image is bad."""
    return row if isinstance(row, BadRecord) else BadRecord("no ImageID")


def is_at_least(text: str, least: float) -> bool:
    """Return whether a number is at least `least`.

    Raises:
        BadRecord: it is no number.
    """
    try:
        return float(text) >= least
    except ValueError as error:
        raise BadRecord("malformed confidence") from error

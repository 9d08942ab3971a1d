"""AudioSet's clips with the names of what is heard in them, and AudioCaps' with sentences about them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datamodules.sources.annotations import (
    BadRecord,
    Records,
    check_records,
    estimate_count,
    json_bytes,
    read_rows,
    require_files,
    samples_of,
    text_of,
)
from datamodules.sources.source import SOUND_SUFFIXES, Dropped, Sample, Source, key_of, walk

YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
CLIP_S = 10.0
SEGMENT_COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")


@dataclass
class AudioSet(Source):
    """Clips of `balanced_train_segments.csv`: the display names of their labels are the text.

    A clip is the file `YTID`, `YYTID`, `YTID_START_END` or `YTID_START`, with times in seconds (30, 30.0, 30.000) or
    milliseconds (30000), in any format of sound. It is taken whole.
    """

    path: Path
    """The folder of the data set."""
    segments: Path = Path("balanced_train_segments.csv")
    """`YTID, start_seconds, end_seconds, positive_labels`; relative to `path`."""
    labels: Path = Path("class_labels_indices.csv")
    """`index,mid,display_name`; relative to `path`."""
    sounds: Path = Path("balanced_train_segments")
    """The folder of the clips; relative to `path`."""

    def files(self) -> list[Path]:
        root = Path(self.path)
        return [root / self.segments, root / self.labels, *walk(root / self.sounds, SOUND_SUFFIXES)]

    def check(self) -> None:
        root = Path(self.path)
        if root.exists():
            require_files(segments=root / self.segments, labels=root / self.labels)
        super().check()
        check_records(self.rows(), root / self.segments, "rows of YTID, start, end and labels")
        if not self.names():
            raise ValueError(f"{root / self.labels} holds no row of index, mid and display name.")

    def __len__(self) -> int:
        return estimate_count(Path(self.path) / self.segments)

    def __iter__(self) -> Iterator[Sample | Dropped]:
        names = self.names()

        def labelled(name: str, row: dict[str, str]) -> Iterator[Sample]:
            start_s, end_s = seconds(row["start_seconds"]), seconds(row["end_seconds"])
            file = find_clip(Path(self.path) / self.sounds, row["YTID"], start_s, end_s)
            labels = [label.strip() for label in row["positive_labels"].split(",")]
            if unknown := [label for label in labels if label not in names]:
                raise BadRecord("label without a name" if any(unknown) else "no label")
            shown = [names[label] for label in labels]
            about = {"youtube_id": row["YTID"], "start_s": start_s, "end_s": end_s, "labels": shown}
            about["mids"] = labels
            members = {file.suffix[1:].lower(): file, "txt": ", ".join(shown).encode()}
            yield Sample(key_of(f"{row['YTID']}_{start_s:g}"), members | {"json": json_bytes(about)}, name)

        yield from samples_of(self.rows(), labelled)

    def rows(self) -> Records:
        """Yield the segments; the file's header is the last of three lines of comment."""
        return read_rows(Path(self.path) / self.segments, SEGMENT_COLUMNS, has_header=False, comment="#")

    def names(self) -> dict[str, str]:
        """Return each label's display name."""
        rows = read_rows(Path(self.path) / self.labels, ("index", "mid", "display_name"))
        return {row["mid"]: row["display_name"] for _, row in rows if not isinstance(row, BadRecord)}


@dataclass
class AudioCaps(Source):
    """AudioCaps' clips of AudioSet, each with a sentence: `audiocap_id,youtube_id,start_time,caption`."""

    path: Path
    """The folder of the data set."""
    captions: Path = Path("train.csv")
    """The captions; relative to `path`."""
    sounds: Path = Path("train")
    """The folder of the clips, named as AudioSet's or after `audiocap_id`; relative to `path`."""

    def files(self) -> list[Path]:
        return [Path(self.path) / self.captions, *walk(Path(self.path) / self.sounds, SOUND_SUFFIXES)]

    def check(self) -> None:
        if Path(self.path).exists():
            require_files(captions=Path(self.path) / self.captions)
        super().check()
        check_records(self.rows(), Path(self.path) / self.captions, "rows with a caption")

    def __len__(self) -> int:
        return estimate_count(Path(self.path) / self.captions)

    def __iter__(self) -> Iterator[Sample | Dropped]:
        return samples_of(self.rows(), self.captioned)

    def rows(self) -> Records:
        """Yield the captions."""
        columns = ("audiocap_id", "youtube_id", "start_time", "caption")
        return read_rows(Path(self.path) / self.captions, columns)

    def captioned(self, name: str, row: dict[str, str]) -> Iterator[Sample]:
        """Yield the sample of a row."""
        start_s, text = seconds(row["start_time"]), text_of(row, "caption")
        if not row["audiocap_id"].isalnum():
            raise BadRecord("malformed audiocap_id")
        stems = (row["audiocap_id"],)
        file = find_clip(Path(self.path) / self.sounds, row["youtube_id"], start_s, start_s + CLIP_S, stems)
        about = {"audiocap_id": row["audiocap_id"], "youtube_id": row["youtube_id"], "start_s": start_s}
        members = {file.suffix[1:].lower(): file, "txt": text.encode(), "json": json_bytes(about)}
        yield Sample(key_of(row["audiocap_id"]), members, name)


def seconds(text: str) -> float:
    """Return a time in seconds.

    Raises:
        BadRecord: it is no number, or not one from 0 to a day.
    """
    try:
        time_s = float(text)
    except ValueError as error:
        raise BadRecord("malformed time") from error
    if not 0 <= time_s <= 86_400:
        raise BadRecord("malformed time")
    return time_s


def find_clip(
    folder: Path, youtube_id: str, start_s: float, end_s: float, stems: tuple[str, ...] = ()
) -> Path:
    """Return the file of a clip of YouTube, under one of the names that downloaders give.

    Raises:
        BadRecord: the identifier is none of YouTube's, or there is no file.
    """
    if not YOUTUBE_ID.fullmatch(youtube_id):
        raise BadRecord("malformed YouTube id")
    spans = [
        tuple(spelt(time_s) for time_s in (start_s, end_s))
        for spelt in ("{:g}".format, "{:.1f}".format, "{:.3f}".format, lambda time_s: f"{1000 * time_s:.0f}")
    ]
    names = [f"{youtube_id}_{start}_{end}" for start, end in spans]
    names += [f"{youtube_id}_{start}" for start, _ in spans] + [youtube_id]
    for stem in (*stems, *names, *(f"Y{name}" for name in names)):
        for suffix in ("wav", "flac", "mp3", "ogg"):
            if (file := folder / f"{stem}.{suffix}").is_file():
                return file
    raise BadRecord("sound not found")

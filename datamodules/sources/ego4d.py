"""Ego4D's narrations: `v2/annotations/narration.json` beside `v2/full_scale/UID.mp4`."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from pathlib import Path

from datamodules.preparation.encoding import flac
from datamodules.preparation.video.excerpt import read_frame_at, read_sound_between
from datamodules.preparation.video.reading import SAMPLING_RATE, NoTrackError, VideoError
from datamodules.sources.annotations import (
    BadRecord,
    Records,
    estimate_count,
    json_bytes,
    media_below,
    require_files,
    samples_of,
    text_of,
)
from datamodules.sources.json_records import MissingKeyError, read_records
from datamodules.sources.source import Dropped, Note, Sample, Source, key_of, walk

VIDEO_SUFFIXES = frozenset({"mp4"})
ACTOR = re.compile(r"^\s*#\s*[CO]\b\s*", re.IGNORECASE)
WEARER = re.compile(r"\bC\b")
UNSURE = re.compile(r"#\s*unsure", re.IGNORECASE)


@dataclass
class Ego4D(Source):
    """A sample per narration: the frame at its time, the sound around it if there is any, and what was said.

    The mark of who acts, `#C` or `#O`, is taken off, and `C`, the one who wears the camera, is spelt out: `#C C opens
    a door` becomes `the camera wearer opens a door`. Narrations marked `#unsure` are dropped.
    """

    path: Path
    """The folder that `ego4d --output_directory` filled."""
    narrations: Path = Path("v2/annotations/narration.json")
    """The narrations; relative to `path`."""
    videos: Path = Path("v2/full_scale")
    """The folder of the videos; relative to `path`."""
    seconds: float = 2.0
    """How much sound around a narration's time goes with it."""
    passes: list[str] = field(default_factory=lambda: ["narration_pass_1", "narration_pass_2"])
    """Whose narrations are taken; every video was narrated twice."""
    wearer: str = "the camera wearer"
    """What `C` is spelt out as."""
    max_pixels: int = 10_000_000
    """Videos with larger pictures are dropped."""

    def files(self) -> list[Path]:
        return [self.narration_file(), *walk(Path(self.path) / self.videos, VIDEO_SUFFIXES)]

    def narration_file(self) -> Path:
        """Return where the narrations lie."""
        return Path(self.path) / self.narrations

    def check(self) -> None:
        if Path(self.path).exists():
            require_files(narrations=self.narration_file())
        super().check()
        if not sum(1 for _ in self.narrated()):
            raise ValueError(
                f"{self.narration_file()} holds no video; expected `videos`, from a uid to its narrations."
            )

    def __len__(self) -> int:
        return estimate_count(self.narration_file(), b'"timestamp_sec"')

    def __iter__(self) -> Iterator[Sample | Dropped]:
        root = (Path(self.path) / self.videos).resolve()
        for uid, video in self.narrated():
            found = [(key, each) for key in self.passes for each in narrations_of(video, key)]
            if not found:
                yield Dropped(uid, "video without narrations")

            def narrated(name: str, record: tuple[str, object], uid: str = uid) -> Iterator[Sample]:
                file = media_below(root, f"{uid}.mp4", VIDEO_SUFFIXES, "video")
                key, narration = record
                text, time_s = self.cleaned(narration), time_of(narration)
                about = {"video_uid": uid, "timestamp_s": time_s, "pass": key}
                about |= {"annotation_uid": narration.get("annotation_uid")}
                members = {"mp4": file, "txt": text.encode("utf-8", "replace"), "json": json_bytes(about)}
                yield Sample(key_of(f"{uid}-{name.rpartition(' ')[2]}"), members, name)

            named = ((f"{uid}, narration {number}", each) for number, each in enumerate(found))
            yield from samples_of(named, narrated)

    def narrated(self) -> Records:
        """Yield each video's uid and record; they stand under `videos`, in older releases at the top."""
        try:
            yield from filter(is_pair, read_records(self.narration_file(), "videos"))
        except MissingKeyError:
            yield from filter(is_pair, read_records(self.narration_file()))

    def cleaned(self, narration: object) -> str:
        """Return a narration as a sentence.

        Raises:
            BadRecord: there is none, or the narrator was unsure.
        """
        if not isinstance(narration, dict):
            raise BadRecord("narration is not an object")
        text = text_of(narration, "narration_text")
        if UNSURE.search(text):
            raise BadRecord("unsure narration")
        text = " ".join(WEARER.sub(self.wearer, ACTOR.sub("", text)).split())
        if not text:
            raise BadRecord("no narration_text")
        return text

    def expand(self, sample: Sample) -> Iterator[Sample | Dropped | Note]:
        """Read the frame and the sound of one narration out of its video."""
        members = dict(sample.members)
        video, middle_s = members.pop("mp4"), json.loads(members["json"])["timestamp_s"]
        try:
            members["jpg"] = read_frame_at(video, middle_s, self.max_pixels)
            try:
                start_s, end_s = middle_s - self.seconds / 2, middle_s + self.seconds / 2
                members["flac"] = flac(read_sound_between(video, start_s, end_s), SAMPLING_RATE)
            except NoTrackError:
                pass  # many of Ego4D's videos were published without sound
        except (VideoError, OSError) as error:
            yield Dropped(f"{sample.name} ({error})", "undecodable video")
            return
        yield replaced(sample, members=members)


def is_pair(record: object) -> bool:
    """Return whether a record has a name, as those of an object have; a list's have none."""
    return isinstance(record, tuple)


def narrations_of(video: object, key: str) -> list:
    """Return the narrations of one pass; none where a video has no such pass, such as a redacted one."""
    narrated = video.get(key) if isinstance(video, dict) else None
    listed = narrated.get("narrations") if isinstance(narrated, dict) else None
    return listed if isinstance(listed, list) else []


def time_of(narration: dict) -> float:
    """Return a narration's time in seconds.

    Raises:
        BadRecord: it is no number, or not one from 0 to a day.
    """
    time_s = narration.get("timestamp_sec")
    if not isinstance(time_s, (int, float)) or not math.isfinite(time_s) or not 0 <= time_s <= 86_400:
        raise BadRecord("malformed time")
    return float(time_s)

"""Videos cut into clips in which frames and samples are in step, for what learns from lips, hands or impacts."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datamodules.preparation.encoding import SAME_BYTES_H264, flac
from datamodules.preparation.sync import Drift, SyncError, drift_from_events, repaired, sample_bounds
from datamodules.preparation.tracks import Sound, pictures_at, read_sound_track
from datamodules.preparation.video.reading import VideoError
from datamodules.sources.source import Dropped, Note, Sample, Source, key_of, walk

if TYPE_CHECKING:
    from av import VideoFrame

VIDEO_SUFFIXES = frozenset({"mp4", "mkv", "webm"})
BITS_PER_PIXEL = 0.25
CHANGE_SIZE = 32
"""Pictures are compared in this size."""


@dataclass
class SynchronisedClips(Source):
    """Videos, of which every `seconds` become a sample: its frames as `.mp4` without sound, and their sound as `.flac`.

    Frame t of a clip goes with samples `round(t * sampling_rate / frame_rate)` to that of t + 1. The clips of a video
    follow each other without a gap; what is left at its end is left out.
    """

    path: Path
    """The folder; those below it are walked as well."""
    seconds: float = 5.0
    """How long a clip is; a whole number of frames is taken."""
    frame_rate: str = "25"
    """Frames per second of the clips, such as 25 or 30000/1001, whatever the video has."""
    sampling_rate: int = 16_000
    """Samples per second of the clips."""
    by_events: bool = False
    """Measure the offset of the sound by what is both seen and heard, flashes with clicks, and repair it."""
    max_seconds: float = 3600.0
    """Longer videos are dropped; cut them first."""
    max_pixels: int = 10_000_000
    """Videos with larger pictures are dropped."""

    def __post_init__(self) -> None:
        try:
            rate = Fraction(self.frame_rate)
        except (ValueError, ZeroDivisionError):
            raise ValueError(
                f"frame_rate is {self.frame_rate!r}; expected frames per second, such as 25 or 30000/1001"
            ) from None
        if not 1 <= rate <= 240 or not 1000 <= self.sampling_rate <= 192_000 or self.seconds * rate < 1:
            raise ValueError(
                f"found frame_rate {self.frame_rate}, sampling_rate {self.sampling_rate}, seconds {self.seconds}; "
                "expected 1 to 240 frames per second, 1000 to 192000 Hz, and a clip of at least a frame"
            )

    def files(self) -> list[Path]:
        return walk(self.path, VIDEO_SUFFIXES)

    def expects(self) -> str:
        return "videos (mp4, mkv, webm) with sound"

    def __iter__(self) -> Iterator[Sample | Dropped]:
        for video in self.files():
            name = video.relative_to(self.path).as_posix()
            yield Sample(key_of(name.rpartition(".")[0]), {"video": video}, name)

    def expand(self, sample: Sample) -> Iterator[Sample | Dropped | Note]:
        """Lay the sound of one video where it belongs, note how, and yield its clips."""
        try:
            yield from self.clips(sample)
        except (VideoError, SyncError) as error:
            reason = (
                "undecodable video" if isinstance(error, VideoError) else "sound and pictures not in step"
            )
            yield Dropped(f"{sample.name} ({error})", reason)

    def clips(self, video: Sample) -> Iterator[Sample | Note]:
        """Yield the note and the clips of one video.

        Raises:
            VideoError, SyncError: the video cannot be used.
        """
        path, frame_rate = video.members["video"], Fraction(self.frame_rate)
        sound = read_sound_track(path, self.sampling_rate, self.max_seconds)
        waveform, drift = sound.waveform, Drift(0.0, 1.0)
        if self.by_events:
            drift = drift_from_events(
                changes(pictures_at(path, frame_rate, self.max_pixels)),
                frame_rate,
                waveform,
                self.sampling_rate,
            )
            waveform = repaired(waveform, drift, self.sampling_rate)
        yield Note("sync", told(video.name, sound, drift))
        length, first = int(self.seconds * frame_rate), 0
        for first, frames in enumerate(batches(pictures_at(path, frame_rate, self.max_pixels), length)):
            start, stop = sample_bounds(first * length, length, frame_rate, self.sampling_rate)[[0, -1]]
            if stop > len(waveform):
                return
            members = {
                "mp4": silent(frames, frame_rate),
                "flac": flac(waveform[start:stop], self.sampling_rate),
            }
            yield Sample(f"{video.key}-{first:04d}", members, f"{video.name}, clip {first}")

    def report(self, folder: Path, notes: Sequence[Note] = ()) -> dict:
        """Return the manifest's summary: what was repaired in how many videos; each video's goes to `sync.json`."""
        videos = [dict(note.content) for note in notes if note.kind == "sync"]
        (folder / "sync.json").write_text(
            json.dumps({"videos": videos}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        return {
            "sync": {
                "frame_rate": self.frame_rate,
                "sampling_rate": self.sampling_rate,
                "videos": len(videos),
                "shifted": sum(video["sound_began_s"] != 0 for video in videos),
                "resampled": sum(video["clock"] != 1 or video["events_rate"] != 1 for video in videos),
                "with_gaps": sum(video["gaps"] > 0 for video in videos),
            }
        }


def told(name: str, sound: Sound, drift: Drift) -> dict:
    """Return what is noted of one video."""
    return {
        "name": name,
        "sound_began_s": round(sound.offset_s, 6),
        "clock": round(sound.rate, 8),
        "gaps": sound.num_gaps,
        "events_offset_s": round(drift.offset_s, 6),
        "events_rate": round(drift.rate, 8),
    }


def batches(frames: "Iterator[VideoFrame]", length: int) -> "Iterator[list[VideoFrame]]":
    """Yield runs of `length` frames; what is left is left out."""
    run: list[VideoFrame] = []
    for frame in frames:
        run.append(frame)
        if len(run) == length:
            yield run
            run = []


def changes(frames: "Iterator[VideoFrame]") -> np.ndarray:
    """Return how much brighter each frame is than the one before (frames,), where it changed most."""
    found, before = [], None
    for frame in frames:
        picture = frame.reformat(CHANGE_SIZE, CHANGE_SIZE, format="gray").to_ndarray().astype(np.float32)
        found.append(0.0 if before is None else float(np.maximum(0, picture - before).mean()))
        before = picture
    return np.array(found)


def silent(frames: "list[VideoFrame]", frame_rate: Fraction) -> bytes:
    """Return frames as MP4 without sound, H.264 where there is an encoder, else MPEG-4; sides are made even."""
    import av

    file = io.BytesIO()
    width, height = frames[0].width // 2 * 2, frames[0].height // 2 * 2
    with av.open(file, "w", format="mp4") as container:
        if "libx264" in av.codecs_available:
            stream = container.add_stream("libx264", rate=frame_rate, options=SAME_BYTES_H264)
        else:
            stream = container.add_stream("mpeg4", rate=frame_rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = max(400_000, int(BITS_PER_PIXEL * width * height * frame_rate))
        stream.codec_context.thread_count = 1  # the same bytes on any number of cores
        for index, frame in enumerate(frames):
            picture = frame.reformat(width, height, format="yuv420p")
            picture.pts, picture.time_base = index, 1 / frame_rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return file.getvalue()

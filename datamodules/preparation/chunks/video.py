"""VideoChunks: long video cut into pieces of some seconds, pictures and sound together."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.preparation.chunks.cutter import Cutter, Piece
from datamodules.preparation.cleaning.filter import Reject
from datamodules.preparation.encoding import SAME_BYTES_H264
from datamodules.preparation.video.reading import VideoError, opened
from datamodules.sources.source import Member, read

if TYPE_CHECKING:
    from av import AudioFrame, VideoFrame
    from av.container import InputContainer

CLOCK_HZ = 90_000
"""Of the pieces' pictures: what frame rates of film, television and 25 or 30 per second divide."""


@dataclass
class VideoChunks(Cutter):
    """Cuts video at any frame, by decoding all of it and encoding each piece anew: MP4, H.264 and AAC.

    Copying packets would be faster, and could cut at key frames only, which may lie ten seconds apart.
    """

    seconds: float = 30.0
    """Length of a chunk; the last may be shorter, but is longer than the overlap."""
    overlap_s: float = 2.0
    """What two neighbours share."""
    max_seconds: float = 24 * 3600.0
    """Longer videos are dropped."""
    max_pixels: int = 10_000_000
    """Videos with larger pictures are dropped."""
    crf: int = 20
    """Quality of H.264, from 0, without loss, to 51."""

    suffixes = frozenset({"mp4", "mkv", "webm"})
    suffix = "mp4"
    unit = "milliseconds"

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_s <= self.seconds / 2:
            raise ValueError(
                f"overlap_s is {self.overlap_s}; expected 0 to {self.seconds / 2:g}, half of seconds"
            )

    def scale(self, member: Member) -> dict[str, Any]:
        return {"per_second": 1000}

    def is_long(self, member: Member) -> bool:
        try:
            with as_path(member) as path, opened(path, "pictures", "sound") as container:
                return (container.duration or 0) / 1e6 > self.seconds
        except (OSError, VideoError):
            return False

    def cut(self, member: Member) -> Iterator[Piece]:
        """Yield pieces while the video is decoded: two at most are open at a time, whatever its length."""
        try:
            with as_path(member) as path, opened(path, "pictures", "sound") as container:
                yield from self.pieces(container)
        except VideoError as error:
            raise Reject("undecodable video") from error

    def pieces(self, container: "InputContainer") -> Iterator[Piece]:
        """Yield pieces of an open video.

        Raises:
            Reject: it is longer or larger than allowed.
        """
        from av import VideoFrame

        total = min((container.duration or 0) / 1e6, self.max_seconds)
        hop = self.seconds - self.overlap_s
        writers: list[Writer] = []
        begun, reached = 0, {"video": 0.0, "audio": 0.0}
        sources = container.streams.video[0], container.streams.audio[0]
        for frame in container.decode(*sources):
            time = frame.time or 0.0
            if time > self.max_seconds:
                raise Reject("video too long")
            if isinstance(frame, VideoFrame) and frame.width * frame.height > self.max_pixels:
                raise Reject("video too large")
            reached["video" if isinstance(frame, VideoFrame) else "audio"] = time
            # A piece that would hold nothing but the end of the one before it is not begun.
            while begun * hop <= time and (begun == 0 or (begun - 1) * hop + self.seconds < total):
                writers.append(Writer(begun * hop, begun * hop + self.seconds, sources, self.crf))
                begun += 1
            for writer in writers:
                writer.write(frame, time)
            while writers and writers[0].end_s <= min(reached.values()):
                yield writers.pop(0).close(total)
        for writer in writers:
            yield writer.close(total)


class Writer:
    """One piece in the making: frames of the whole go in, those within the piece are encoded from time 0 on."""

    def __init__(self, start_s: float, end_s: float, sources: tuple[Any, Any], crf: int) -> None:
        import av

        video, audio = sources
        self.start_s, self.end_s = start_s, end_s
        self.file = io.BytesIO()
        self.container = av.open(self.file, "w", format="mp4")
        options = {"crf": str(crf), **SAME_BYTES_H264}
        self.video = self.container.add_stream("libx264", rate=video.average_rate or 25, options=options)
        self.video.width, self.video.height = video.width // 2 * 2, video.height // 2 * 2
        self.video.pix_fmt = "yuv420p"
        self.video.time_base = self.video.codec_context.time_base = Fraction(1, CLOCK_HZ)
        self.audio = self.container.add_stream(
            "aac", rate=audio.rate, layout="stereo" if audio.channels > 1 else "mono"
        )
        self.resampler = av.AudioResampler(format="fltp", layout=self.audio.layout, rate=audio.rate)
        self.num_sound = 0
        self.last_pts = -1

    def write(self, frame: "VideoFrame | AudioFrame", time: float) -> None:
        """Add what of a frame lies within the piece.

        Args:
            frame: of the whole; its own time is not asked for, since another piece may have put it in order for itself.
            time: of the frame in the whole, in seconds.
        """
        from av import VideoFrame

        if isinstance(frame, VideoFrame):
            pts = round((time - self.start_s) * CLOCK_HZ)
            if self.start_s <= time < self.end_s and pts > self.last_pts:
                shown = frame.reformat(self.video.width, self.video.height, "yuv420p")
                shown.pts, shown.time_base, self.last_pts = pts, Fraction(1, CLOCK_HZ), pts
                shown.pict_type = 0  # the encoder chooses key frames, not the encoder before it
                self.container.mux(self.video.encode(shown))
        elif time < self.end_s and time + frame.samples / frame.sample_rate > self.start_s:
            self.write_sound(frame, time)

    def write_sound(self, frame: "AudioFrame", time: float) -> None:
        """Add the samples of a frame that lie within the piece."""
        from av import AudioFrame

        rate = self.audio.rate
        for part in self.resampler.resample(frame):
            samples = part.to_ndarray()
            first = round((self.start_s - time) * rate)
            begin, end = (
                max(0, first),
                min(samples.shape[1], first + round((self.end_s - self.start_s) * rate)),
            )
            time += samples.shape[1] / rate
            if begin < end:
                cut = AudioFrame.from_ndarray(samples[:, begin:end].copy(), "fltp", self.audio.layout.name)
                cut.sample_rate, cut.time_base = rate, Fraction(1, rate)
                cut.pts = self.num_sound if self.num_sound else max(0, -first)
                self.num_sound = cut.pts + end - begin
                self.container.mux(self.audio.encode(cut))

    def close(self, total_s: float) -> Piece:
        """Return the finished piece."""
        for stream in (self.video, self.audio):
            self.container.mux(stream.encode(None))
        self.container.close()
        end_s = min(self.end_s, total_s)
        return Piece(round(1000 * self.start_s), round(1000 * end_s), self.file.getvalue())


@contextmanager
def as_path(member: Member) -> Iterator[Path]:
    """Give a member as a file: FFmpeg seeks in it."""
    if isinstance(member, Path):
        yield member
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(read(member))
        file.flush()
        yield Path(file.name)

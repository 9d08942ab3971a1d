"""Video: encoded clips to frames."""

import bisect
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.containers import ContainerError, open_container
from datamodules.modalities.picture_size import fit
from datamodules.modalities.pictures import check_size

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

CODECS = frozenset({"h264", "hevc", "mpeg4", "vp8", "vp9", "av1", "libdav1d", "mjpeg", "theora"})
MAX_PACKETS = 500_000
MAX_REORDERED = 64
"""Frames that a decoder may give beyond those planned, since it starts at a key frame and sorts."""


class Video:
    """Clips to frames, evenly spaced by time. Inputs: `pixels` (rows, frames, 3, height, width) uint8 and
    `mask` (rows, frames) bool, True where a frame is the clip's own.

    Of a clip of fewer frames all are taken; the last is repeated, and masked. Frames are scaled until both sides
    are filled and cut in the centre. What makes a clip bad is said in docs/bad_input.md.

    Args:
        height: pixels.
        width: pixels.
        num_frames: in each clip.
        max_pixels: of one frame; larger ones are bad samples.
        max_aspect: longer side over shorter; beyond it a sample is bad.
        max_seconds: longer clips are bad samples: chunk them when preparing.
        max_decoded_pixels: of all frames that must be decoded to get at those that are wanted; a clip that costs
            more is a bad sample. A bound in seconds would let a busy machine see other samples.

    Raises:
        ValueError: when a number makes no sense.
    """

    members = ("mp4", "mkv", "webm", "mov", "m4v")

    def __init__(
        self,
        height: int,
        width: int,
        num_frames: int,
        max_pixels: int = 10_000_000,
        max_aspect: float = 20.0,
        max_seconds: float = 3600.0,
        max_decoded_pixels: int = 1_500_000_000,
    ) -> None:
        if min(height, width, num_frames, max_pixels, max_decoded_pixels) < 1 or max_aspect < 1:
            raise ValueError(
                f"video: height {height}, width {width}, num_frames {num_frames}, max_pixels {max_pixels}, "
                f"max_decoded_pixels {max_decoded_pixels}, max_aspect {max_aspect}: expected all to be at least 1"
            )
        if max_seconds <= 0:
            raise ValueError(f"video: max_seconds is {max_seconds}: expected more than 0")
        self.height, self.width, self.num_frames = height, width, num_frames
        self.max_pixels, self.max_aspect = max_pixels, max_aspect
        self.max_seconds, self.max_decoded_pixels = max_seconds, max_decoded_pixels

    def decode(self, data: bytes, member: str) -> np.ndarray:
        """Return frames (frames, height, width, 3), uint8, at most `num_frames`.

        Raises:
            BadSample: when it is no video, cut, damaged, without pictures, too large, too long or too costly.
        """
        try:
            with open_container(data) as container:
                return self._frames(container)
        except BadSample:
            raise
        except ContainerError as error:
            raise BadSample("undecodable_video", str(error)) from error
        except Exception as error:  # PyAV raises Python's own kinds for what cannot be; it is no video then
            raise BadSample("undecodable_video", f"{type(error).__name__}: {error}") from error

    def augment(self, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return value

    def collate(self, values: list[np.ndarray]) -> dict[str, Tensor]:
        if not values:
            return {
                "pixels": torch.zeros(0, self.num_frames, 3, self.height, self.width, dtype=torch.uint8),
                "mask": torch.zeros(0, self.num_frames, dtype=torch.bool),
            }
        places = np.arange(self.num_frames)
        clips = [torch.from_numpy(clip[np.minimum(places, len(clip) - 1)]) for clip in values]
        mask = places < np.array([len(clip) for clip in values])[:, None]
        return {
            "pixels": default_collate(clips).permute(0, 1, 4, 2, 3),
            "mask": torch.from_numpy(mask),
        }

    def _frames(self, container: "InputContainer") -> np.ndarray:
        stream = self._stream(container)
        shown, keys = self._timeline(container, stream)
        wanted = _evenly_spaced(shown, self.num_frames)
        # Decoding begins at the last key frame before each; those between two wanted ones are decoded once.
        starts = [keys[max(0, bisect.bisect_right(keys, pts) - 1)] for pts in wanted]
        spans = zip(starts, wanted, strict=True)
        num_decoded = len({pts for start, end in spans for pts in _between(shown, start, end)})
        pixels = num_decoded * stream.codec_context.width * stream.codec_context.height
        if pixels > self.max_decoded_pixels:
            raise BadSample(
                "video_too_costly",
                f"{num_decoded} frames to decode, {pixels} pixels, at most {self.max_decoded_pixels}",
            )
        return self._decoded(container, stream, wanted=wanted, starts=starts, budget=num_decoded)

    def _stream(self, container: "InputContainer") -> "VideoStream":
        if not container.streams.video:
            raise BadSample("video_without_pictures")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context is None or context.name not in CODECS:
            name = "an unknown codec" if context is None else context.name
            raise BadSample("undecodable_video", f"{name} is none of {', '.join(sorted(CODECS))}")
        if not context.width or not context.height:
            raise BadSample("undecodable_video", "the header tells no size")
        check_video_size(context.width, context.height, self.max_pixels, self.max_aspect)
        context.thread_count = 1  # beside it other workers decode
        context.options = {"err_detect": "explode"}
        return stream

    def _timeline(self, container: "InputContainer", stream: "VideoStream") -> tuple[list[int], list[int]]:
        """Return when frames are shown and which of them are key frames, from packets alone, none decoded."""
        shown, keys, count = [], [], 0
        for packet in container.demux(stream):
            if not packet.size:
                continue
            count += 1
            if packet.is_corrupt or packet.pts is None:
                raise BadSample("undecodable_video", f"packet {count} is damaged")
            if count > MAX_PACKETS:
                raise BadSample("video_too_long", f"more than {MAX_PACKETS} frames")
            shown.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
        if not shown or not keys:
            raise BadSample("undecodable_video", "it has no frames")
        if stream.frames > 2 * count:  # edit lists leave some out
            raise BadSample("undecodable_video", f"{count} frames, its header promises {stream.frames}")
        shown = sorted(set(shown))
        seconds = float((shown[-1] - shown[0]) * (stream.time_base or Fraction(1)))
        if seconds > self.max_seconds:
            raise BadSample("video_too_long", f"{seconds:.0f} s, at most {self.max_seconds:.0f}")
        return shown, sorted(keys)

    def _decoded(
        self,
        container: "InputContainer",
        stream: "VideoStream",
        *,
        wanted: list[int],
        starts: list[int],
        budget: int,
    ) -> np.ndarray:
        found: list[np.ndarray] = []
        frames: Iterator[VideoFrame] = iter(())
        frame = None
        for start, pts in zip(starts, wanted, strict=True):
            if frame is None or start > frame.pts:  # nothing between is wanted
                container.seek(start, stream=stream)
                frames, frame = container.decode(stream), None
            while frame is None or frame.pts < pts:
                frame = next(frames, None)
                budget -= 1
                if frame is None:
                    raise BadSample("undecodable_video", f"{len(found)} of {len(wanted)} frames decode")
                if frame.pts is None or frame.is_corrupt or budget < -MAX_REORDERED:
                    raise BadSample("undecodable_video", "a frame is damaged, or not where its packet says")
            found.append(self._fitted(frame))
        return np.stack(found)

    def _fitted(self, frame: "VideoFrame") -> np.ndarray:
        check_video_size(frame.width, frame.height, self.max_pixels, self.max_aspect)
        turns = round(frame.rotation / 90) % 4
        height, width = (self.width, self.height) if turns % 2 else (self.height, self.width)
        # FFmpeg scales while it converts colours, on fewer bytes than RGB has.
        scale = max(height / frame.height, width / frame.width)
        rgb = frame.reformat(
            width=max(width, round(frame.width * scale)),
            height=max(height, round(frame.height * scale)),
            format="rgb24",
            interpolation="BICUBIC",
        ).to_ndarray()
        return fit(np.ascontiguousarray(np.rot90(rgb, turns)), self.height, self.width)


def check_video_size(width: int, height: int, max_pixels: int, max_aspect: float) -> None:
    """Refuse frames that would cost too much.

    Raises:
        BadSample: `video_too_large` or `video_aspect`.
    """
    try:
        check_size(width, height, max_pixels, max_aspect)
    except BadSample as bad:
        raise BadSample(bad.reason.replace("image", "video"), bad.detail) from bad


def _evenly_spaced(shown: list[int], number: int) -> list[int]:
    """Return the frames on screen in the middle of `number` equal spans, all of them when there are no more."""
    if len(shown) <= number:
        return shown
    last = shown[-1] + (shown[-1] - shown[0]) / (
        len(shown) - 1
    )  # the last frame stays as long as the others do
    middles = shown[0] + (last - shown[0]) * (np.arange(number) + 0.5) / number
    places = np.searchsorted(shown, middles, side="right") - 1
    return [shown[place] for place in dict.fromkeys(places.tolist())]


def _between(shown: list[int], start: int, end: int) -> list[int]:
    return shown[np.searchsorted(shown, start) : np.searchsorted(shown, end, side="right")]

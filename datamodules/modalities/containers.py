"""Opening MP4, MKV and WebM so that FFmpeg sees those bytes and nothing else, whatever they ask for.

FFmpeg follows what it takes for a playlist or a session description to other files and hosts, whatever the name.
So the format is found here by the first bytes and given to it, the bytes reach it through a Python object, and
anything else that it wants to open is refused.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

if TYPE_CHECKING:
    from av.container import InputContainer

MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
EBML = b"\x1a\x45\xdf\xa3"
SEGMENT = b"\x18\x53\x80\x67"


class ContainerError(ValueError):
    """Bytes that are no whole MP4, MKV or WebM."""


@contextmanager
def open_container(source: bytes | BinaryIO) -> "Iterator[InputContainer]":
    """Open a video; what FFmpeg raises while it is open becomes ContainerError.

    Args:
        source: the bytes, or a file that is open for reading.

    Raises:
        ContainerError: it is neither MP4 nor Matroska (MKV, WebM), cut, or FFmpeg cannot read it.
    """
    import av

    file = io.BytesIO(source) if isinstance(source, bytes) else source
    container_format = sniff(file)
    if missing := _missing_bytes(file, container_format):
        raise ContainerError(f"the file is cut: {missing} bytes are missing")
    file.seek(0)
    av.logging.set_libav_level(av.logging.FATAL)  # what else is wrong is counted, not printed
    options = {"protocol_whitelist": ""}
    try:
        with av.open(
            file,
            format=container_format,
            container_options=options,
            metadata_errors="replace",
            io_open=_refuse,
        ) as container:
            yield container
    except (av.FFmpegError, MemoryError, OverflowError) as error:  # the last two: numbers that cannot be
        raise ContainerError(f"{type(error).__name__}: {error}") from error


def sniff(file: BinaryIO) -> str:
    """Return FFmpeg's name of the container's format by its first bytes.

    Raises:
        ContainerError: it is neither MP4 nor Matroska.
    """
    file.seek(0)
    head = file.read(12)
    if head[4:8] in MOV_BOXES:
        return "mov"
    if head.startswith(EBML):
        return "matroska"
    raise ContainerError(f"it begins with {head!r}; expected MP4, MKV or WebM")


def _refuse(url: str, flags: int, options: dict[str, Any]) -> NoReturn:
    raise ContainerError(f"it asks for another file, {url[:80]!r}, which is never opened")


def _missing_bytes(file: BinaryIO, container_format: str) -> int:
    """Return by how much the parts that the file names go beyond its end."""
    end = file.seek(0, os.SEEK_END)
    if container_format == "matroska":
        return max(0, _segment_end(file) - end)
    position = 0
    while position + 8 <= end:
        file.seek(position)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:  # a long one
            size = int.from_bytes(head[8:16], "big")
        if size < 8:  # 0: to the end of the file; the rest: nonsense, which FFmpeg judges
            return 0
        position += size
        if position > end and head[4:8] in (b"moov", b"moof", b"mdat"):
            return position - end
    return 0


def _segment_end(file: BinaryIO) -> int:
    """Return where Matroska's one segment says it ends; 0 where it does not say, as a live stream."""
    file.seek(4)
    header_size, width = _vint(file.read(8))
    file.seek(4 + width + header_size)
    if file.read(4) != SEGMENT:
        return 0
    start = file.tell()
    size, width = _vint(file.read(8))
    is_unknown = size == (1 << 7 * width) - 1
    return 0 if is_unknown else start + width + size


def _vint(data: bytes) -> tuple[int, int]:
    """Return an EBML number of variable width, and its width in bytes."""
    if not data or not data[0]:
        raise ContainerError("a damaged Matroska header")
    width = 9 - data[0].bit_length()
    return int.from_bytes(data[:width], "big") & ((1 << 7 * width) - 1), width

"""Reading encoded sound: the content decides the format, block by block, and what is cut or damaged is found out."""

import hashlib
import io
import math
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from datamodules.modalities.bad_sample import BadSample

if TYPE_CHECKING:
    from soundfile import SoundFile

FORMATS = {
    "FLAC": "audio/flac",
    "WAV": "audio/wav",
    "WAVEX": "audio/wav",
    "RF64": "audio/wav",
    "OGG": "audio/ogg",
    "MP3": "audio/mpeg",
    "MPEG": "audio/mpeg",
}
"""What libsndfile may read, by its name, and what a browser calls it."""
MIN_RATE_HZ, MAX_RATE_HZ, MAX_CHANNELS = 1000, 384_000, 32
BLOCK_FRAMES = 1 << 14
LARGE_BLOCK_FRAMES = 1 << 16
"""libsndfile seeks before each read, which is slow: for those that hold few of them, larger ones are better."""
FLAC_BYTES_PER_SAMPLE = {"PCM_S8": 1, "PCM_16": 2, "PCM_24": 3}
STREAMED_FROM = 0x7FFF_0000
"""Data sizes from here on are what encoders write that cannot seek back to say how much there is."""


class SoundReader:
    """Blocks of a sound, mixed down, at its own rate.

    Args:
        data: FLAC, WAV, Ogg (Vorbis, Opus) or MP3.

    Attributes:
        rate_hz: samples a second.

    Raises:
        BadSample: `undecodable_audio` when it is none of these, `audio_cut` when a WAV, Ogg or MP3 ends before it
            should, `audio_header` when rate or channels are those of no sound.
    """

    def __init__(self, data: bytes) -> None:
        if reason := _cut(data):
            raise BadSample("audio_cut", reason)
        self.data, self.file = data, open_sound(data)
        self.rate_hz = self.file.samplerate

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield waveforms (samples,), float32 in [-1, 1].

        Raises:
            BadSample: `undecodable_audio` where it does not decode, `audio_not_finite`, and at the end `audio_cut`
                when there was less than the header says, or other than a FLAC's checksum.
        """
        is_flac = self.file.format == "FLAC"
        digest, num_frames = hashlib.md5(usedforsecurity=False), 0
        sample_bytes = FLAC_BYTES_PER_SAMPLE.get(self.file.subtype, 4)
        while True:
            block = _next_block(self.file, BLOCK_FRAMES, "int32" if is_flac else "float32")
            if not len(block):
                break
            num_frames += len(block)
            if is_flac:
                digest.update(block.view(np.uint8).reshape(-1, 4)[:, 4 - sample_bytes :].tobytes())
                block = np.multiply(block, np.float32(2.0**-31), dtype=np.float32)
            elif not np.isfinite(block).all():
                raise BadSample("audio_not_finite")
            yield np.clip(block, -1.0, 1.0).mean(axis=1)
        if num_frames < self.file.frames:
            raise BadSample("audio_cut", f"{num_frames} of {self.file.frames} samples")
        # libsndfile fills up a FLAC that is cut with silence; what it should decode to has this checksum.
        is_known = is_flac and self.data.startswith(b"fLaC") and any(self.data[26:42])
        if is_known and digest.digest() != self.data[26:42]:
            raise BadSample("audio_cut", "the FLAC's checksum differs")


def open_sound(data: bytes, max_seconds: float = math.inf) -> "SoundFile":
    """Open a sound of an allowed format, whose header claims usual rates and channels, whole or cut.

    Args:
        data: FLAC, WAV, Ogg (Vorbis, Opus) or MP3.
        max_seconds: the longest that the header may claim.

    Raises:
        BadSample: `undecodable_audio` when it is none of these, `audio_header` when rate, channels or length are those
            of no sound.
    """
    import soundfile

    try:
        file = soundfile.SoundFile(io.BytesIO(_with_true_size(data)))
    except soundfile.LibsndfileError as error:
        raise BadSample("undecodable_audio", error.error_string) from error
    except Exception as error:  # soundfile raises several kinds; each means that these bytes are no sound
        raise BadSample("undecodable_audio", f"{type(error).__name__}: {error}") from error
    rate_hz, channels = file.samplerate, file.channels
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ or not 1 <= channels <= MAX_CHANNELS:
        raise BadSample("audio_header", f"{rate_hz} Hz, {channels} channels")
    if file.format not in FORMATS:
        raise BadSample("undecodable_audio", f"{file.format} is none of {', '.join(sorted(FORMATS))}")
    if file.frames > max_seconds * rate_hz:
        raise BadSample("audio_header", f"{file.frames} samples at {rate_hz} Hz")
    return file


def read_beginning(file: "SoundFile", frames: int) -> Iterator[np.ndarray]:
    """Yield at most so many frames of an open sound in blocks (frames, channels), float32, none of them empty.

    Raises:
        BadSample: `undecodable_audio` where it does not decode, `audio_not_finite`.
    """
    while frames > 0:
        block = _next_block(file, min(LARGE_BLOCK_FRAMES, frames), "float32")
        if not len(block):
            return
        if not np.isfinite(block).all():
            raise BadSample("audio_not_finite")
        frames -= len(block)
        yield block


def _next_block(file: "SoundFile", frames: int, dtype: str) -> np.ndarray:
    try:
        return file.read(frames, dtype=dtype, always_2d=True)
    except Exception as error:  # as above
        raise BadSample("undecodable_audio", f"{type(error).__name__}: {error}") from error


def read_sound(data: bytes, rate_hz: int, max_seconds: float) -> np.ndarray:
    """Return the first `max_seconds` of a sound as waveform (samples,), float32 in [-1, 1], at `rate_hz`.

    Raises:
        BadSample: see SoundReader.
    """
    reader = SoundReader(data)
    wanted = round(max_seconds * reader.rate_hz)
    pieces, num_samples = [np.zeros(0, np.float32)], 0
    for block in reader.blocks():
        pieces.append(block)
        num_samples += len(block)
        if num_samples >= wanted:
            break
    waveform = np.concatenate(pieces)[:wanted]
    if reader.rate_hz != rate_hz and len(waveform):
        import soxr

        waveform = soxr.resample(waveform, reader.rate_hz, rate_hz)
    return np.clip(waveform, -1.0, 1.0)


def _cut(data: bytes) -> str:
    """Say what is missing, which libsndfile would not: it reads what is there, or an estimate of it."""
    if data[:4] in (b"RIFF", b"RF64"):
        found = _wav_data(data)
        if found is None:
            return ""  # libsndfile says what is wrong
        start, size = found
        return f"{len(data) - start} of {size} bytes" if start + size > len(data) else ""
    if data[:4] == b"OggS":
        last = data.rfind(b"OggS")
        header = data[last : last + 27]
        if len(header) < 27 or not header[5] & 4:
            return "no last page"
        num_segments = header[26]
        sizes = data[last + 27 : last + 27 + num_segments]
        is_whole = len(sizes) == num_segments and last + 27 + num_segments + sum(sizes) <= len(data)
        return "" if is_whole else "the last page is cut"
    return _cut_mp3(data)


def _cut_mp3(data: bytes) -> str:
    """Compare an MP3 with the number of bytes that its first frame may tell (Xing's header)."""
    start = 0
    if data[:3] == b"ID3" and len(data) >= 10:
        size = data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9]
        start = 10 + size
    if data[start : start + 1] != b"\xff":
        return ""
    for tag in (b"Xing", b"Info"):
        at = data.find(tag, start, start + 64)
        if at < 0 or len(data) < at + 16:
            continue
        flags = int.from_bytes(data[at + 4 : at + 8], "big")
        if flags & 2:
            place = at + 8 + 4 * (flags & 1)
            size = int.from_bytes(data[place : place + 4], "big")
            return f"{len(data) - start} of {size} bytes" if start + size > len(data) else ""
    return ""


def _wav_data(data: bytes) -> tuple[int, int] | None:
    """Return where the samples of a WAV start and how many bytes the header says; all there is when it says nothing."""
    position = 12
    while position + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        position += 8
        if name == b"data":
            rest = len(data) - position
            is_streamed = size >= STREAMED_FROM or (size == 0 and _says_no_length(data))
            return position, rest if is_streamed else size
        position += size + size % 2
    return None


def _says_no_length(data: bytes) -> bool:
    """Return whether a RIFF header leaves its own length open, as one that was never finished."""
    length = int.from_bytes(data[4:8], "little")
    return length == 0 or length >= STREAMED_FROM


def _with_true_size(data: bytes) -> bytes:
    """Return a WAV of unknown length with the length that it has."""
    if data[:4] != b"RIFF" or not _says_no_length(data):
        return data
    found = _wav_data(data)
    if found is None:
        return data
    start, size = found
    return b"".join(
        (
            data[:4],
            struct.pack("<I", min(len(data) - 8, 0xFFFF_FFFF)),
            data[8 : start - 4],
            struct.pack("<I", size),
            data[start:],
        )
    )

"""Subtitles in SRT and WebVTT: read with every bad cue counted, repaired where that is safe, and written."""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TIME = r"(?:(\d+):)?([0-5]?\d):([0-5]?\d)[,.](\d{1,3})"
TIMING = re.compile(rf"\s*{TIME}\s*-->\s*{TIME}(?:\s.*)?")
MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")
CUE_NUMBER_OR_TIME = re.compile(r"[\d:,.\s-]+")
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class SubtitleError(ValueError):
    """A subtitle file of which nothing can be used."""


@dataclass(frozen=True)
class Cue:
    """What is said from `start_s` to `end_s`, in seconds."""

    start_s: float
    end_s: float
    text: str


def read_subtitles(path: Path) -> tuple[list[Cue], int]:
    """Return a file's cues in order of their start, and how many more had to be skipped.

    Cue numbers are not looked at; `,` and `.` both divide seconds; hours may be missing; markup is removed. A cue is
    skipped when a time is malformed, negative or out of range, when it does not end after its start, or has no text.

    Raises:
        SubtitleError: the file is not UTF-8 (or UTF-16 with a mark), a .vtt lacks its header line, or no cue is left.
    """
    data = path.read_bytes()
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise SubtitleError(f"{path} is not {encoding}: {error}; expected UTF-8. Convert it.") from error
    is_vtt = path.suffix.lower() == ".vtt"
    if is_vtt and not text.startswith("WEBVTT"):
        raise SubtitleError(f"{path} begins with {text[:20]!r}; expected the line WEBVTT.")

    found = [cue_of(block) for block in blocks(text, is_vtt)]
    cues = sorted((cue for cue in found if cue), key=lambda cue: cue.start_s)
    if not cues:
        raise SubtitleError(f"{path} holds no usable cue, {len(found)} unusable; expected at least one.")
    return cues, len(found) - len(cues)


def blocks(text: str, is_vtt: bool) -> Iterator[list[str]]:
    """Yield the lines of each cue from its timing line on; what was cut before its timing line comes as it is."""
    for block in re.split(r"\n[^\S\n]*\n", "\n".join(text.splitlines())):
        lines = [line for line in block.split("\n") if line.strip()]
        timings = [index for index, line in enumerate(lines) if "-->" in line]
        for start, end in zip(timings, [*timings[1:], len(lines)], strict=False):
            is_followed = end < len(lines)
            yield lines[start : end - 1 if is_followed and lines[end - 1].strip().isdigit() else end]
        if lines and not timings and not is_vtt and CUE_NUMBER_OR_TIME.fullmatch(" ".join(lines)):
            yield lines


def cue_of(lines: list[str]) -> Cue | None:
    """Return the cue of a timing line and its text, or None if it cannot be used."""
    timing = TIMING.fullmatch(lines[0])
    text = " ".join(html.unescape(MARKUP.sub(" ", " ".join(lines[1:]))).split())
    if not timing or not text:
        return None
    start_s, end_s = seconds(*timing.groups()[:4]), seconds(*timing.groups()[4:])
    return Cue(start_s, end_s, text) if start_s < end_s else None


def seconds(hours: str | None, minutes: str, rest: str, fraction: str) -> float:
    """Return the parts of a timestamp as seconds."""
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(rest) + int(fraction.ljust(3, "0")) / 1000


def write_subtitles(path: Path, cues: list[Cue]) -> None:
    """Write cues as SRT."""
    written = (
        f"{n}\n{stamp(cue.start_s)} --> {stamp(cue.end_s)}\n{cue.text}\n" for n, cue in enumerate(cues, 1)
    )
    path.write_text("\n".join(written), encoding="utf-8")


def stamp(time_s: float) -> str:
    """Return seconds as SRT writes them, `00:01:02,345`."""
    total_ms = round(time_s * 1000)
    return f"{total_ms // 3_600_000:02}:{total_ms // 60_000 % 60:02}:{total_ms // 1000 % 60:02},{total_ms % 1000:03}"

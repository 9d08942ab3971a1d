"""Subtitles in SRT and WebVTT: read with every bad cue counted, repaired where that is safe, and written."""

import html
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from datamodules.preparation.encodings import decode

TIME = r"(-?)(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[,.](\d{1,3})"
TIMING = re.compile(rf"\s*{TIME}\s*-->\s*{TIME}(?:\s.*)?", re.ASCII)
MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")
CUE_NUMBER_OR_TIME = re.compile(r"[\d:,.\s-]+")
VTT_HEADER = re.compile(r"WEBVTT(?:[ \t].*)?$")
MAX_BYTES = 64_000_000


class SubtitleError(ValueError):
    """A subtitle file of which nothing can be used."""


@dataclass(frozen=True)
class Cue:
    """What is said from `start_s` to `end_s`, in seconds."""

    start_s: float
    end_s: float
    text: str


class Subtitles(NamedTuple):
    """What a file holds, and what was wrong with it."""

    cues: list[Cue]
    """In order of their start."""
    skipped: dict[str, int]
    """How many cues cannot be used, by reason."""
    notes: dict[str, int]
    """How many cues were `unordered` and sorted, or are `overlapping` and left so: two may speak at once."""
    encoding: str

    @property
    def num_skipped(self) -> int:
        """How many cues cannot be used."""
        return sum(self.skipped.values())


class UnusableCue(ValueError):
    """A cue that is skipped; the message is the reason."""


def read_subtitles(path: Path) -> Subtitles:
    """Return a file's cues in order of their start, and what had to be skipped.

    Cue numbers are not looked at; `,` and `.` both divide seconds; hours may be missing; markup is removed. A cue is
    skipped when a time is malformed, negative or out of range, when it does not end after its start, has no text, or
    holds what the file's encoding cannot read. The encoding is found as `encodings.decode` tells.

    Raises:
        SubtitleError: the file is no text or larger than 64 MB, a .vtt lacks its header line, or no cue is left.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise SubtitleError(f"{path} is {size} bytes large; expected at most {MAX_BYTES}.")
    try:
        text, encoding = decode(path.read_bytes())
    except ValueError as error:
        raise SubtitleError(f"{path} cannot be read: {error}.") from error
    is_vtt = path.suffix.lower() == ".vtt"
    if is_vtt and not VTT_HEADER.match(text.partition("\n")[0].rstrip("\r").partition("\r")[0]):
        raise SubtitleError(f"{path} begins with {text[:20]!r}; expected the line WEBVTT.")

    found, skipped = [], Counter()
    for block in blocks(text, is_vtt):
        try:
            found.append(cue_of(block))
        except UnusableCue as reason:
            skipped[str(reason)] += 1
    if not found:
        reasons = ", ".join(f"{number} {reason}" for reason, number in skipped.items()) or "none at all"
        raise SubtitleError(f"{path} holds no usable cue ({reasons}); expected at least one.")
    cues = sorted(found, key=lambda cue: cue.start_s)
    notes = {
        "unordered": sum(one.start_s > other.start_s for one, other in pairwise(found)),
        "overlapping": sum(one.end_s > other.start_s for one, other in pairwise(cues)),
    }
    return Subtitles(
        cues, dict(skipped), {kind: number for kind, number in notes.items() if number}, encoding
    )


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


def cue_of(lines: list[str]) -> Cue:
    """Return the cue of a timing line and its text.

    Raises:
        UnusableCue: it cannot be used.
    """
    timing = TIMING.fullmatch(lines[0])
    if not timing:
        raise UnusableCue("malformed time")
    start_s, end_s = seconds(*timing.groups()[:5]), seconds(*timing.groups()[5:])
    if start_s >= end_s:
        raise UnusableCue("end not after start")
    text = " ".join(html.unescape(MARKUP.sub(" ", " ".join(lines[1:]))).split())
    if not text:
        raise UnusableCue("no text")
    if "\ufffd" in text:
        raise UnusableCue("undecodable text")
    return Cue(start_s, end_s, text)


def seconds(sign: str, hours: str | None, minutes: str, rest: str, fraction: str) -> float:
    """Return the parts of a timestamp as seconds.

    Raises:
        UnusableCue: it is negative, or has more than 59 minutes or seconds.
    """
    if sign:
        raise UnusableCue("negative time")
    if int(minutes) > 59 or int(rest) > 59:
        raise UnusableCue("time out of range")
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

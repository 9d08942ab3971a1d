"""Videos with subtitles beside them: aligned in time, then cut into a sample per cue."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datamodules.preparation.alignment.aligner import Aligner, Alignment, AlignmentError
from datamodules.preparation.alignment.comparison import comparison, spread_ms, tried, truth_of
from datamodules.preparation.alignment.loudness import loudness_curve
from datamodules.preparation.alignment.speech import Speech
from datamodules.preparation.encoding import flac
from datamodules.preparation.subtitles import Cue, SubtitleError, read_subtitles
from datamodules.preparation.video.reading import SAMPLING_RATE, VideoError, read_frames, read_sound
from datamodules.sources.source import Dropped, Note, Sample, Source, key_of, walk

VIDEO_SUFFIXES = frozenset({"mp4", "mkv", "webm"})
SUBTITLE_SUFFIXES = ("srt", "vtt")
MIN_SECONDS = 0.05
IN_JSON_ONLY = frozenset({"cues", "loudness"})
"""What the manifest leaves out of a clip."""
REASONS = {
    SubtitleError: "unusable subtitles",
    VideoError: "undecodable video",
    AlignmentError: "subtitles do not fit the sound",
}


@dataclass
class SubtitledVideos(Source):
    """`clip.mp4` with `clip.srt` or `clip.vtt`: each cue becomes a sample of a frame, the sound and the text.

    Where right subtitles lie beside them as `clip.reference.srt`, the error before and after alignment is reported.
    """

    path: Path
    """The folder; those below it are walked as well."""
    aligner: Aligner = field(default_factory=Speech)
    """How cues are found in the sound."""
    compare: list[Aligner] = field(default_factory=list)
    """Further methods to try on every video; the report then has a table of all. They change no sample."""
    max_seconds: float = 3600.0
    """Longer videos are dropped; cut them first."""
    max_pixels: int = 10_000_000
    """Videos with larger pictures are dropped."""

    def files(self) -> list[Path]:
        return walk(self.path, VIDEO_SUFFIXES.union(SUBTITLE_SUFFIXES)) if self.videos() else []

    def expects(self) -> str:
        return "videos (mp4, mkv, webm) with subtitles (srt, vtt) of the same stem"

    def check(self) -> None:
        """Refuse a source with nothing in it, and methods of alignment that cannot work here, before any work is done.

        Raises:
            FileNotFoundError: there is nothing to prepare.
            SpeechError: espeak-ng does not speak the language of `aligner`.
        """
        super().check()
        for aligner in [self.aligner, *self.compare]:
            aligner.check()

    def videos(self) -> list[Path]:
        """Return the videos, with or without subtitles."""
        return walk(self.path, VIDEO_SUFFIXES)

    def __len__(self) -> int:
        return len(self.videos())

    def __iter__(self) -> Iterator[Sample | Dropped]:
        for video in self.videos():
            name = video.relative_to(self.path).as_posix()
            subtitles = beside(video, SUBTITLE_SUFFIXES)
            if subtitles is None:
                yield Dropped(name, "video without subtitles")
                continue
            files = {"video": video, "subtitles": subtitles}
            reference = beside(video, ["reference.srt", "reference.vtt"])
            yield Sample(
                key_of(name.rpartition(".")[0]), files | ({"reference": reference} if reference else {}), name
            )

    def expand(self, sample: Sample) -> Iterator[Sample | Dropped | Note]:
        """Align one video's subtitles, note how, and yield its cues as samples."""
        try:
            yield from self.cues(sample)
        except (SubtitleError, VideoError, AlignmentError) as error:
            yield Dropped(f"{sample.name} ({error})", REASONS[type(error)])

    def cues(self, clip: Sample) -> Iterator[Sample | Dropped | Note]:
        """Yield the note and the cues of one video.

        Raises:
            SubtitleError, VideoError, AlignmentError: the video cannot be used; nothing of it has been yielded.
        """
        video, name = clip.members["video"], clip.name
        subtitles = read_subtitles(clip.members["subtitles"])
        cues = subtitles.cues
        sound = read_sound(video, self.max_seconds)
        alignment = self.aligner(sound, cues)
        middles_s = (alignment.starts_s + alignment.ends_s) / 2
        in_time = np.argsort(middles_s, kind="stable")
        pictures = dict(
            zip(in_time, read_frames(video, list(middles_s[in_time]), self.max_pixels), strict=True)
        )
        reference = clip.members.get("reference")
        found = summary(name, cues, alignment, reference)
        found |= {"encoding": subtitles.encoding, "skipped": subtitles.skipped, "notes": subtitles.notes}
        yield Note("clip", found | {"loudness": loudness_curve(sound)})
        for other in [self.aligner, *self.compare] if self.compare else []:
            aligned = alignment if other is self.aligner else None
            yield Note("comparison", tried(other, sound, subtitles.cues, reference, aligned=aligned))
        yield from (Dropped(name, "unusable cue") for _ in range(subtitles.num_skipped))
        for index, cue in enumerate(cues):
            start, end = (
                round(times[index] * SAMPLING_RATE) for times in (alignment.starts_s, alignment.ends_s)
            )
            piece = sound[max(0, start) : max(0, end)]
            if len(piece) < MIN_SECONDS * SAMPLING_RATE:
                yield Dropped(f"{name}, cue {index}", "cue outside the sound")
                continue
            members = {"jpg": pictures[index], "flac": flac(piece, SAMPLING_RATE), "txt": cue.text.encode()}
            yield Sample(f"{clip.key}-{index:04d}", members, f"{name}, cue {index}")

    def report(self, folder: Path, notes: Sequence[Note] = ()) -> dict:
        """Return the manifest's summary of the alignment; the times of every cue go to `alignment.json`."""
        clips = [dict(note.content) for note in notes if note.kind == "clip"]
        tries = [note.content for note in notes if note.kind == "comparison"]
        content = {"clips": clips} | ({"comparison": comparison(tries)} if tries else {})
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (folder / "alignment.json").write_text(text + "\n", encoding="utf-8")
        known = [cue for clip in clips for cue in clip["cues"] if "true_s" in cue]
        errors = {
            moment: np.array([cue[f"{moment}_s"] - cue["true_s"] for cue in known])
            for moment in ("before", "after")
        }
        alignment: dict = {
            "clips": [
                {key: value for key, value in clip.items() if key not in IN_JSON_ONLY} for clip in clips
            ]
        }
        if known:
            before, after = spread_ms(errors["before"]), spread_ms(errors["after"])
            alignment |= {"median_ms": after["median"], "p95_ms": after["p95"], "before_ms": before["median"]}
        return {"alignment": alignment}


def beside(video: Path, suffixes: list[str] | tuple[str, ...]) -> Path | None:
    """Return the first file with the stem of `video` and one of `suffixes`, or None."""
    candidates = (video.with_suffix(f".{suffix}") for suffix in suffixes)
    return next((file for file in candidates if file.is_file()), None)


def summary(name: str, cues: list[Cue], alignment: Alignment, reference: Path | None) -> dict:
    """Return a clip's line of the report: offset, rate and residual, its cues' times, and errors where truth is known.

    Raises:
        SubtitleError: the reference cannot be read.
    """
    listed = [
        {
            "index": index,
            "text": cue.text,
            "before_s": round(cue.start_s, 3),
            "after_s": round(float(alignment.starts_s[index]), 3),
            "before_end_s": round(cue.end_s, 3),
            "after_end_s": round(float(alignment.ends_s[index]), 3),
            "residual_ms": round(1000 * float(alignment.residuals_s[index]), 1),
        }
        for index, cue in enumerate(cues)
    ]
    clip = {
        "name": name,
        "offset_s": round(alignment.line.offset_s, 3),
        "rate": round(alignment.line.rate, 5),
        "residual_ms": round(alignment.residual_ms, 1),
        "mismatch": None if alignment.mismatch is None else round(alignment.mismatch, 3),
        "cues": listed,
    }
    right = {} if reference is None else truth_of(cues, read_subtitles(reference).cues)
    for index, cue in right.items():
        listed[index] |= {"true_s": round(cue.start_s, 3), "true_end_s": round(cue.end_s, 3)}
    known = [listed[index] for index in sorted(right)]
    if known:
        clip |= {
            "before_ms": spread_ms(np.array([entry["before_s"] - entry["true_s"] for entry in known])),
            "after_ms": spread_ms(np.array([entry["after_s"] - entry["true_s"] for entry in known])),
            "ends_after_ms": spread_ms(
                np.array([entry["after_end_s"] - entry["true_end_s"] for entry in known])
            ),
        }
    return clip

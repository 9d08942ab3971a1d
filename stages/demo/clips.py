"""Narrated clips: the scene changes with the narration, and the subtitles are late, early and uneven."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.preparation.speech import SAMPLING_RATE, Speaker
from stages.demo.narration import narrate
from stages.demo.scenes import SIZE, draw_scene
from stages.demo.splits import Split

FRAMES_PER_S = 25
FRAME_SIZE = 2 * SIZE
SAMPLES_PER_MS = SAMPLING_RATE // 1000
RATES = (0.98, 24 / 25, 1.02, 25 / 24)
"""How fast subtitles may run against the sound: the clock of another film, or its frame rate mistaken."""

Cue = tuple[int, int, str]
"""From and to, milliseconds, and the text."""


def write_clip(stem: Path, split: Split, rng: np.random.Generator, speaker: Speaker, rate: float) -> None:
    """Write `<stem>.mp4`, `<stem>.srt`, which drifts at `rate`, and `<stem>.reference.srt`, which tells the truth."""
    scenes = [split.sample_scene(rng) for _ in range(rng.integers(8, 11))]
    voice = rng.choice(split.voices)
    narration = [narrate(scene.caption, str(voice), speaker, rng) for scene in scenes]
    waveform, truth = string_together(narration, [scene.caption for scene in scenes], rng)
    pictures = [draw_scene(scene, split.sample_scans(scene, rng), rng) for scene in scenes]
    write_video(stem.with_suffix(".mp4"), list(frames(pictures, truth, len(waveform))), waveform)
    write_subtitles(stem.with_suffix(".reference.srt"), truth)
    write_subtitles(stem.with_suffix(".srt"), drift(truth, rate, rng))


def string_together(
    narration: list[np.ndarray], captions: list[str], rng: np.random.Generator
) -> tuple[np.ndarray, list[Cue]]:
    """Return one waveform with pauses between the utterances, in faint noise, and when each is heard."""
    pieces, cues, clock_ms = [], [], 0
    for spoken, caption in zip(narration, captions, strict=True):
        pause_ms = int(rng.integers(250, 2000)) + (500 if not cues else 0)
        pieces += [np.zeros(pause_ms * SAMPLES_PER_MS), spoken]
        start_ms = clock_ms + pause_ms
        clock_ms = start_ms + -(-len(spoken) // SAMPLES_PER_MS)
        pieces.append(np.zeros((clock_ms - start_ms) * SAMPLES_PER_MS - len(spoken)))
        cues.append((start_ms, clock_ms, caption))
    pieces.append(np.zeros(SAMPLING_RATE))
    waveform = 0.7 * np.concatenate(pieces)
    return (waveform + rng.normal(0, 0.001, len(waveform))).astype(np.float32), cues


def frames(pictures: list[Image.Image], cues: list[Cue], num_samples: int) -> Iterator[Image.Image]:
    """Yield the frames: each picture from half-way through the pause before its cue."""
    changes_ms = [0, *((before[1] + after[0]) / 2 for before, after in pairwise(cues))]
    enlarged = [picture.resize((FRAME_SIZE, FRAME_SIZE), Image.Resampling.BICUBIC) for picture in pictures]
    for index in range(num_samples * FRAMES_PER_S // SAMPLING_RATE):
        shown = np.searchsorted(changes_ms, index * 1000 / FRAMES_PER_S, side="right") - 1
        yield enlarged[shown]


def drift(cues: list[Cue], rate: float, rng: np.random.Generator) -> list[Cue]:
    """Return cues as a careless subtitler leaves them: at another rate, shifted by up to 3 s, each off by a little."""
    shift_ms = rng.uniform(-3000, 3000)
    drifted = []
    for start_ms, end_ms, text in cues:
        start = max(0, round(start_ms * rate + shift_ms + rng.normal(0, 120)))
        length = max(200, round((end_ms - start_ms) * rate + rng.normal(0, 120)))
        drifted.append((start, start + length, text))
    return drifted


def write_subtitles(path: Path, cues: list[Cue]) -> None:
    """Write SubRip."""
    blocks = (
        f"{number}\n{timestamp(start)} --> {timestamp(end)}\n{text}\n"
        for number, (start, end, text) in enumerate(cues, 1)
    )
    path.write_text("\n".join(blocks), encoding="utf-8")


def timestamp(time_ms: int) -> str:
    """Return SubRip's time, `00:00:01,250`."""
    seconds, milliseconds = divmod(time_ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02},{milliseconds:03}"


def write_video(path: Path, pictures: list[Image.Image], waveform: np.ndarray) -> None:
    """Encode frames at 25 per second and waveform (samples,), 16 kHz, as MP4: H.264 where it is there, and AAC."""
    import av

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=FRAMES_PER_S)
        video.width = video.height = FRAME_SIZE
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1  # the same bytes on any number of cores
        audio = container.add_stream("aac", rate=SAMPLING_RATE, layout="mono")
        for picture in pictures:
            container.mux(video.encode(av.VideoFrame.from_image(picture)))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = SAMPLING_RATE, Fraction(1, SAMPLING_RATE), 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))

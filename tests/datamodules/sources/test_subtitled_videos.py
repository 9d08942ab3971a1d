"""Videos with drifting subtitles, cut into samples where the words are heard."""

import io
import json
from fractions import Fraction

import numpy as np
import pytest
import soundfile
from PIL import Image

from datamodules.preparation.alignment.activity import Activity
from datamodules.preparation.alignment.speech import Speech
from datamodules.preparation.alignment.timestamps import Timestamps
from datamodules.preparation.speech import SpeechError
from datamodules.preparation.subtitles import Cue, read_subtitles, write_subtitles
from datamodules.sources.source import Dropped, Note, Sample
from datamodules.sources.subtitled_videos import SubtitledVideos

RATE_HZ = 16_000
TEXTS = ("a red seven left of a blue two", "three small boats", "nobody saw the green lamp", "a white nine")
COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30))


def write_video(path, sound, colour_at):
    """Write H.264 or MPEG-4 at 25 frames per second, and the sound."""
    import av

    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=25)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        for index in range(len(sound) * 25 // RATE_HZ):
            picture = Image.new("RGB", (32, 32), colour_at(index / 25))
            container.mux(video.encode(av.VideoFrame.from_image(picture)))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE_HZ, Fraction(1, RATE_HZ), 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A clip told by another voice than the reference, with subtitles 1.5 s late and 2 % fast; and three bad ones."""
    from datamodules.preparation.speech import Utterance, speak_many

    folder = tmp_path_factory.mktemp("videos")
    pieces, truth, clock = [], [], 0
    spoken = speak_many(Utterance(text, voice="en-gb-x-rp+f4", rate_wpm=155) for text in TEXTS)
    for text, waveform in zip(TEXTS, spoken, strict=True):
        start, clock = clock + RATE_HZ, clock + RATE_HZ + len(waveform)
        pieces += [np.zeros(RATE_HZ), 0.7 * waveform]
        truth.append(Cue(start / RATE_HZ, clock / RATE_HZ, text))
    sound = np.concatenate([*pieces, np.zeros(RATE_HZ)])
    sound = (sound + np.random.default_rng(0).normal(0, 1e-3, len(sound))).astype(np.float32)
    write_video(
        folder / "clip_00.mp4",
        sound,
        lambda time_s: COLOURS[sum(cue.start_s - 0.2 <= time_s for cue in truth[1:])],
    )
    late = [Cue(cue.start_s * 0.98 + 1.5, cue.end_s * 0.98 + 1.5, cue.text) for cue in truth]
    write_subtitles(folder / "clip_00.srt", late)
    write_subtitles(folder / "clip_00.reference.srt", truth)
    (folder / "alone.mp4").write_bytes(b"x")
    (folder / "playlist.mp4").write_text("ffconcat version 1.0\nfile clip_00.mp4\n")
    write_subtitles(folder / "playlist.srt", truth)
    (folder / "silent.webm").write_bytes(b"\x1a\x45\xdf\xa3")
    (folder / "silent.srt").write_text("no cues")
    return folder


@pytest.fixture(scope="module")
def prepared(videos):
    source = SubtitledVideos(videos)
    items = [
        made for item in source for made in (source.expand(item) if isinstance(item, Sample) else [item])
    ]
    return source, items, read_subtitles(videos / "clip_00.reference.srt").cues


def test_each_cue_becomes_a_sample_of_frame_sound_and_text(prepared):
    samples = [item for item in prepared[1] if isinstance(item, Sample)]
    assert [sample.key for sample in samples] == [f"clip_00-{index:04d}" for index in range(4)]
    assert [sample.members["txt"].decode() for sample in samples] == list(TEXTS)
    for sample, colour, cue in zip(samples, COLOURS, prepared[2], strict=True):
        picture = np.asarray(Image.open(io.BytesIO(sample.members["jpg"])))
        assert np.abs(picture.mean(axis=(0, 1)) - colour).max() < 40
        waveform, rate_hz = soundfile.read(io.BytesIO(sample.members["flac"]))
        assert rate_hz == RATE_HZ
        assert len(waveform) / RATE_HZ == pytest.approx(cue.end_s - cue.start_s, abs=0.05)


def test_the_error_before_and_after_is_reported(prepared, tmp_path):
    notes = [item for item in prepared[1] if isinstance(item, Note)]
    alignment = prepared[0].report(tmp_path, notes)["alignment"]
    assert alignment["before_ms"] > 1000
    assert alignment["median_ms"] <= 20
    assert alignment["p95_ms"] <= 50
    [clip] = alignment["clips"]
    assert clip["rate"] == pytest.approx(1 / 0.98, abs=0.005)
    [plotted] = json.loads((tmp_path / "alignment.json").read_text())["clips"]
    assert [cue["text"] for cue in plotted["cues"]] == list(TEXTS)
    assert {"before_s", "after_s", "true_s"} <= plotted["cues"][0].keys()


def test_bad_videos_are_set_aside_with_their_reason(prepared):
    reasons = {item.name.split(" ")[0]: item.reason for item in prepared[1] if isinstance(item, Dropped)}
    assert reasons == {
        "alone.mp4": "video without subtitles",
        "playlist.mp4": "undecodable video",
        "silent.webm": "unusable subtitles",
    }


def test_subtitles_without_a_video_are_nothing_to_prepare(tmp_path):
    write_subtitles(tmp_path / "a.srt", [Cue(0.0, 1.0, "x")])
    with pytest.raises(FileNotFoundError, match="found nothing to prepare"):
        SubtitledVideos(tmp_path).check()


def test_methods_are_compared_on_every_clip(videos, tmp_path):
    source = SubtitledVideos(videos, aligner=Speech(), compare=[Activity(), Timestamps()])
    [clip] = [item for item in source if isinstance(item, Sample) and item.key == "clip_00"]
    made = list(source.expand(clip))
    source.report(tmp_path, [item for item in made if isinstance(item, Note)])
    compared = json.loads((tmp_path / "alignment.json").read_text())["comparison"]
    assert list(compared) == ["Speech", "Activity", "Timestamps"]
    assert compared["Speech"]["median_error_ms"] <= 20 < 1000 < compared["Timestamps"]["median_error_ms"]
    assert compared["Speech"]["worse_than_before"] == 0
    assert [item for item in made if not isinstance(item, Note)] == [
        item for item in SubtitledVideos(videos).expand(clip) if not isinstance(item, Note)
    ]


def test_a_language_that_cannot_be_spoken_is_refused_before_any_work(videos):
    with pytest.raises(SpeechError, match="Activity"):
        SubtitledVideos(videos, aligner=Speech(voice="no-such")).check()

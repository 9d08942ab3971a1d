"""Pictures and sound out of the middle of a video."""

import numpy as np
import pytest

from datamodules.preparation.video.excerpt import read_frame_at, read_sound_between
from datamodules.preparation.video.reading import NoTrackError, VideoError, read_frames, read_sound

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Ten seconds whose picture and sound tell the time, with sound and without, a key frame every two seconds."""
    from fractions import Fraction

    import av
    from PIL import Image

    folder = tmp_path_factory.mktemp("videos")
    clock = np.arange(10 * RATE_HZ) / RATE_HZ
    sound = (0.5 * np.sin(2 * np.pi * (200 + 20 * clock) * clock)).astype(np.float32)
    for name in ("whole.mp4", "silent.mp4", "voice.m4a"):
        with av.open(str(folder / name), "w", format="mp4") as container:
            if name != "voice.m4a":
                video = container.add_stream(
                    "libx264" if "libx264" in av.codecs_available else "mpeg4", rate=25
                )
                video.width = video.height = 32
                video.pix_fmt, video.gop_size = "yuv420p", 50
            if name != "silent.mp4":
                audio = container.add_stream("aac", rate=RATE_HZ, layout="mono")
            for index in range(250) if name != "voice.m4a" else ():
                picture = Image.new("L", (32, 32), index).convert("RGB")
                container.mux(video.encode(av.VideoFrame.from_image(picture)))
            if name != "voice.m4a":
                container.mux(video.encode(None))
            if name != "silent.mp4":
                frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
                frame.sample_rate, frame.time_base, frame.pts = RATE_HZ, Fraction(1, RATE_HZ), 0
                container.mux(audio.encode(frame))
                container.mux(audio.encode(None))
    return folder


@pytest.mark.parametrize("time_s", [0.0, 0.5, 1.99, 2.0, 5.31, 9.9, 10.5])
def test_a_frame_found_by_seeking_is_the_one_found_by_decoding_up_to_it(videos, time_s):
    expected = read_frames(videos / "whole.mp4", [time_s], 10_000)
    assert [read_frame_at(videos / "whole.mp4", time_s, 10_000)] == expected


@pytest.mark.parametrize("start_s", [-0.5, 0.0, 0.3, 4.321, 9.5])
def test_sound_found_by_seeking_is_in_time(videos, start_s):
    whole = read_sound(videos / "whole.mp4", 60.0)
    expected = whole[round(max(0.0, start_s) * RATE_HZ) : round((start_s + 1) * RATE_HZ)]
    piece = read_sound_between(videos / "whole.mp4", start_s, start_s + 1)
    overlap = min(len(piece), len(expected))
    assert abs(len(piece) - len(expected)) <= 1024  # the encoder pads the last packet
    assert np.abs(piece[:overlap] - expected[:overlap]).max() < 0.02


def test_what_is_not_there_is_refused(videos):
    with pytest.raises(NoTrackError, match="no sound"):
        read_sound_between(videos / "silent.mp4", 0.0, 1.0)
    with pytest.raises(NoTrackError, match="no pictures"):
        read_frame_at(videos / "voice.m4a", 0.0, 10_000)
    with pytest.raises(VideoError, match="no picture at 90"):
        read_frame_at(videos / "whole.mp4", 90.0, 10_000)
    with pytest.raises(VideoError, match="no sound at 90"):
        read_sound_between(videos / "whole.mp4", 90.0, 91.0)
    with pytest.raises(VideoError, match="at most 100 pixels"):
        read_frame_at(videos / "whole.mp4", 0.0, 100)


def test_ego4d_makes_a_sample_of_a_narration_with_sound_and_without(videos, tmp_path):
    import io
    import json

    import soundfile

    from datamodules.sources.ego4d import Ego4D

    (tmp_path / "v2/annotations").mkdir(parents=True)
    (tmp_path / "v2/full_scale").mkdir()
    for uid in ("whole", "silent"):
        (tmp_path / f"v2/full_scale/{uid}.mp4").write_bytes((videos / f"{uid}.mp4").read_bytes())
    spoken = [
        {"timestamp_sec": time_s, "narration_text": "#C C waits", "annotation_uid": "a"} for time_s in (4, 90)
    ]
    content = {"videos": {uid: {"narration_pass_1": {"narrations": spoken}} for uid in ("whole", "silent")}}
    (tmp_path / "v2/annotations/narration.json").write_text(json.dumps(content))
    source = Ego4D(tmp_path)
    source.check()
    whole, beyond, silent, _ = (made for sample in source for made in source.expand(sample))
    assert sorted(whole.members) == ["flac", "jpg", "json", "txt"]
    assert sorted(silent.members) == ["jpg", "json", "txt"]
    assert beyond.reason == "undecodable video"
    waveform, _ = soundfile.read(io.BytesIO(whole.members["flac"]), dtype="float32")
    assert np.abs(waveform - read_sound(videos / "whole.mp4", 60.0)[3 * RATE_HZ : 5 * RATE_HZ]).max() < 0.02


def test_voxceleb_turns_m4a_into_flac(videos, tmp_path):
    import io

    import soundfile

    from datamodules.sources.voxceleb import VoxCeleb

    folder = tmp_path / "aac/id00012/21Uxsk56VDQ"
    folder.mkdir(parents=True)
    (folder / "00001.m4a").write_bytes((videos / "voice.m4a").read_bytes())
    source = VoxCeleb(tmp_path)
    [sample] = (made for item in source for made in source.expand(item))
    waveform, rate_hz = soundfile.read(io.BytesIO(sample.members["flac"]))
    assert (rate_hz, sample.members["cls"]) == (RATE_HZ, b"id00012")
    assert len(waveform) == pytest.approx(10 * RATE_HZ, abs=2048)

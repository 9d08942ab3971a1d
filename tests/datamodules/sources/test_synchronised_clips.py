"""Clips cut from videos with a flash and a click in each second, whose sound begins late, drifts or has gaps."""

import io
import json
from fractions import Fraction

import numpy as np
import pytest
import soundfile

from datamodules.sources.source import Dropped, Note, Sample
from datamodules.sources.synchronised_clips import SynchronisedClips

RATE_HZ = 16_000
CLICK = np.full(80, 0.5, np.float32)


def write_video(path, seconds, frame_rate=Fraction(25), sound_at_s=0.0, clock=1.0, late_s=0.0, gap_at_s=None):
    """Write flashes at each whole second of the pictures, and a click with each, if the sound is laid by its stamps.

    The sound begins at `sound_at_s`, its stamps run `clock` times as fast as its samples, and the clicks come `late_s`.
    """
    import av

    clicks = np.zeros(round((seconds - sound_at_s) / clock * RATE_HZ), np.float32)
    for second in range(1, seconds):
        begin = round((second + late_s - sound_at_s) / clock * RATE_HZ)
        if 0 <= begin < len(clicks) - len(CLICK):
            clicks[begin : begin + len(CLICK)] = CLICK
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=frame_rate)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono")
        for index in range(int(seconds * frame_rate)):
            is_flash = index and int(index / frame_rate) != int((index - 1) / frame_rate)
            picture = av.VideoFrame.from_ndarray(
                np.full((32, 32), 235 if is_flash else 30, np.uint8), format="gray"
            )
            container.mux(video.encode(picture.reformat(format="yuv420p")))
        container.mux(video.encode(None))
        for start in range(0, len(clicks), 1600):
            if gap_at_s is not None and gap_at_s <= start / RATE_HZ < gap_at_s + 0.5:
                continue
            piece = (32767 * clicks[None, start : start + 1600]).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(piece, format="s16", layout="mono")
            frame.sample_rate, frame.time_base = RATE_HZ, Fraction(1, RATE_HZ)
            frame.pts = round(sound_at_s * RATE_HZ + start * clock)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


def made(path, **options):
    source = SynchronisedClips(path.parent, **options)
    [video] = list(source)
    found = list(source.expand(video))
    return (
        [one for one in found if isinstance(one, Sample)],
        [one for one in found if isinstance(one, Note)],
        found,
    )


def opened(sample):
    """Return brightness of each frame (frames,) and the waveform (samples,)."""
    import av

    with av.open(io.BytesIO(sample.members["mp4"])) as container:
        assert not container.streams.audio
        bright = [frame.to_ndarray(format="gray").mean() for frame in container.decode(video=0)]
    return np.array(bright), soundfile.read(io.BytesIO(sample.members["flac"]))[0]


def onsets(waveform):
    """Return where sound begins after at least 400 quiet samples."""
    loud = np.flatnonzero(np.abs(waveform) > 0.25)
    return loud[np.diff(loud, prepend=-1000) > 400]


@pytest.mark.parametrize(
    "spoilt",
    [{}, {"sound_at_s": 0.5}, {"clock": 1.002}, {"clock": 0.999, "sound_at_s": 0.2}, {"gap_at_s": 3.0}],
)
def test_click_and_flash_fall_into_the_same_frame(tmp_path, spoilt):
    write_video(tmp_path / "a.mkv", 15, **spoilt)
    samples, [note], _ = made(tmp_path / "a.mkv", seconds=4.0)
    assert [sample.key for sample in samples] == ["a-0000", "a-0001", "a-0002"]
    heard = 0
    for sample in samples:
        bright, waveform = opened(sample)
        assert (len(bright), len(waveform)) == (100, 64_000)
        for begin in onsets(waveform):
            # Matroska stamps in milliseconds: to that the clock is known.
            assert bright[round(begin / 640)] > 150
            assert abs(begin - 640 * round(begin / 640)) <= 24
            heard += 1
    assert heard >= 9
    assert note.content["gaps"] == ("gap_at_s" in spoilt)
    assert note.content["clock"] == pytest.approx(spoilt.get("clock", 1.0), abs=1e-5)
    assert note.content["sound_began_s"] == pytest.approx(spoilt.get("sound_at_s", 0.0), abs=1e-3)


def test_undisturbed_clicks_stay_on_their_very_sample(tmp_path):
    write_video(tmp_path / "a.mkv", 10)
    samples, _, _ = made(tmp_path / "a.mkv", seconds=3.0)
    found = [
        48_000 * index + begin for index, sample in enumerate(samples) for begin in onsets(opened(sample)[1])
    ]
    assert found == [RATE_HZ * second for second in range(1, 9)]


def test_a_constant_lag_is_found_by_events_and_repaired(tmp_path):
    write_video(tmp_path / "a.mkv", 20, late_s=0.173)
    samples, [note], _ = made(tmp_path / "a.mkv", seconds=5.0, by_events=True)
    assert note.content["events_offset_s"] == pytest.approx(0.173, abs=2 / RATE_HZ)
    for sample in samples:
        bright, waveform = opened(sample)
        for begin in onsets(waveform):
            assert bright[round(begin / 640)] > 150


@pytest.mark.parametrize(("frame_rate", "sampling_rate"), [("24000/1001", 16_000), ("30000/1001", 48_000)])
def test_clips_of_other_rates_join_without_gap_or_overlap(tmp_path, frame_rate, sampling_rate):
    write_video(tmp_path / "a.mkv", 8)
    samples, _, _ = made(tmp_path / "a.mkv", seconds=2.0, frame_rate=frame_rate, sampling_rate=sampling_rate)
    length = int(2 * Fraction(frame_rate))
    total = sum(len(opened(sample)[1]) for sample in samples)
    assert {len(opened(sample)[0]) for sample in samples} == {length}
    assert total == round(len(samples) * length * sampling_rate / Fraction(frame_rate))


def test_two_runs_give_the_same_bytes(tmp_path):
    write_video(tmp_path / "a.mkv", 5)
    first, second = (made(tmp_path / "a.mkv", seconds=2.0)[0] for _ in range(2))
    assert [sample.members for sample in first] == [sample.members for sample in second]


def test_a_bad_video_is_dropped_and_still_pictures_are_not_guessed_from(tmp_path):
    (tmp_path / "a.mkv").write_bytes(b"\x1a\x45\xdf\xa3 and nothing more")
    [dropped] = made(tmp_path / "a.mkv")[2]
    assert isinstance(dropped, Dropped) and dropped.reason == "undecodable video"
    write_video(tmp_path / "a.mkv", 4)
    [dropped] = made(tmp_path / "a.mkv", by_events=True)[2]
    assert isinstance(dropped, Dropped) and dropped.reason == "sound and pictures not in step"


def test_what_was_repaired_is_reported(tmp_path):
    write_video(tmp_path / "a.mkv", 15, clock=1.002)
    _, notes, _ = made(tmp_path / "a.mkv")
    summary = SynchronisedClips(tmp_path).report(tmp_path, notes)["sync"]
    assert (summary["videos"], summary["resampled"], summary["with_gaps"]) == (1, 1, 0)
    assert json.loads((tmp_path / "sync.json").read_text())["videos"][0]["name"] == "a.mkv"


def test_a_frame_rate_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="30000/1001"):
        SynchronisedClips(tmp_path, frame_rate="fast")

"""Clips: the truth is true to the decoded sound, and the subtitles err as announced."""

from itertools import pairwise

import numpy as np
import pytest

from datamodules.preparation.speech import SAMPLING_RATE, Speaker
from stages.demo.clips import FRAMES_PER_S, drift, timestamp, write_clip
from stages.demo.splits import make_splits


def read_subtitles(path):
    """Return (from, to, text), seconds."""
    cues = []
    for block in path.read_text(encoding="utf-8").strip().split("\n\n"):
        _, times, text = block.split("\n")
        start, end = (
            sum(
                float(part) * unit
                for part, unit in zip(time.replace(",", ".").split(":"), (3600, 60, 1), strict=True)
            )
            for time in times.split(" --> ")
        )
        cues.append((start, end, text))
    return cues


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    stem = tmp_path_factory.mktemp("videos") / "clip_00"
    with Speaker() as speaker:
        write_clip(stem, make_splits(0)["train"], np.random.default_rng(0), speaker, rate=0.98)
    return stem


@pytest.fixture(scope="module")
def decoded(clip):
    import av

    with av.open(str(clip.with_suffix(".mp4"))) as container:
        sound = list(container.decode(audio=0))
    with av.open(str(clip.with_suffix(".mp4"))) as container:
        pictures = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert sound[0].time == 0
    return np.concatenate([frame.to_ndarray()[0] for frame in sound]), pictures


def test_reference_cues_begin_and_end_with_the_decoded_sound(clip, decoded):
    waveform, _ = decoded
    cues = read_subtitles(clip.with_suffix(".reference.srt"))
    assert 8 <= len(cues) <= 10
    for start, end, _ in cues:
        first = int((start - 0.1) * SAMPLING_RATE)
        heard = np.abs(waveform[first : int((end + 0.1) * SAMPLING_RATE)]) > 0.01
        onset, offset = (first + np.flatnonzero(heard)[[0, -1]]) / SAMPLING_RATE
        assert abs(onset - start) < 0.01
        assert abs(offset - end) < 0.05  # a voice may fade below the AAC's noise


def test_it_is_silent_between_the_cues(clip, decoded):
    waveform, _ = decoded
    cues = read_subtitles(clip.with_suffix(".reference.srt"))
    for (_, end, _), (start, _, _) in pairwise(cues):
        pause = waveform[int((end + 0.04) * SAMPLING_RATE) : int((start - 0.04) * SAMPLING_RATE)]
        assert pause.std() < 0.005


def test_the_picture_changes_in_every_pause_and_stands_during_every_cue(clip, decoded):
    _, pictures = decoded
    changes = [
        index / FRAMES_PER_S
        for index in range(1, len(pictures))
        if np.abs(pictures[index] - pictures[index - 1]).mean() > 4
    ]
    cues = read_subtitles(clip.with_suffix(".reference.srt"))
    assert len(changes) == len(cues) - 1
    for change, (_, end, _), (start, _, _) in zip(changes, cues[:-1], cues[1:], strict=True):
        assert end < change < start + 1 / FRAMES_PER_S


def test_subtitles_have_the_reference_texts_at_other_times(clip):
    truth, given = (read_subtitles(clip.with_suffix(suffix)) for suffix in (".reference.srt", ".srt"))
    assert [cue[2] for cue in truth] == [cue[2] for cue in given]
    assert np.median([abs(a[0] - b[0]) for a, b in zip(truth, given, strict=True)]) > 0.05


@pytest.mark.parametrize("rate", [0.96, 1.02])
def test_subtitles_drift_at_the_rate_given_around_a_shift_of_at_most_3_s(rate):
    truth = [(start, start + 2000, "a red seven") for start in range(5000, 605_000, 5000)]
    given = drift(truth, rate, np.random.default_rng(1))
    slope, shift_ms = np.polyfit([cue[0] for cue in truth], [cue[0] for cue in given], 1)
    assert slope == pytest.approx(rate, abs=0.001)
    assert abs(shift_ms) < 3100


def test_times_are_written_as_subrip_writes_them():
    assert timestamp(3_723_004) == "01:02:03,004"

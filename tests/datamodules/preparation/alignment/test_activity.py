"""Offset and rate by when somebody speaks, in a language that need not be known."""

import numpy as np
import pytest

from benchmarks.narrated_clips import CONDITIONS, Drift, make_clip
from datamodules.preparation.alignment.activity import Activity, mask_of
from datamodules.preparation.alignment.aligner import AlignmentError, starts
from datamodules.preparation.alignment.timestamps import Timestamps
from datamodules.preparation.speech import Speaker
from datamodules.preparation.subtitles import Cue


@pytest.fixture(scope="module")
def speaker():
    with Speaker() as one:
        yield one


@pytest.mark.parametrize(
    ("rate", "offset_s"),
    [(1.0, 0.0), (0.98, 2.5), (25 / 24, -1.0), (24 / 25, 3.0), (30 / 24, 1.0), (24 / 30, -2.0)],
)
def test_known_drift_is_recovered(speaker, rate, offset_s):
    sound, truth, subtitles = make_clip(3, CONDITIONS["as it is"], speaker, drift=Drift(rate, offset_s))
    alignment = Activity()(sound, subtitles)
    errors = np.abs(alignment.starts_s - starts(truth))
    assert np.median(errors) <= 0.03
    assert alignment.line.rate == pytest.approx(1 / rate, abs=0.01)


def test_words_do_not_matter(speaker):
    sound, _, subtitles = make_clip(4, CONDITIONS["noise 20 dB below"], speaker)
    mute = [Cue(cue.start_s, cue.end_s, "…") for cue in subtitles]
    np.testing.assert_array_equal(Activity()(sound, mute).starts_s, Activity()(sound, subtitles).starts_s)


def test_speech_at_other_times_is_refused(speaker):
    sound, _, _ = make_clip(5, CONDITIONS["as it is"], speaker)
    even = [Cue(0.1 * index, 0.1 * index + 0.02, "x") for index in range(40)]
    with pytest.raises(AlignmentError, match="speech is not where"):
        Activity()(sound, even)


def test_timestamps_alone_leave_a_constant_offset(speaker):
    sound, truth, subtitles = make_clip(
        6, CONDITIONS["as it is"], speaker, drift=Drift(1.0, 2.0, jitter_s=0.0)
    )
    errors = np.abs(Timestamps()(sound, subtitles).starts_s - starts(truth))
    assert np.median(errors) == pytest.approx(2.0, abs=0.04)


def test_a_mask_covers_overlapping_cues_once():
    mask = mask_of(np.array([1.0, 2.0]), np.array([4.0, 6.0]), 8)
    np.testing.assert_array_equal(mask, [0, 1, 1, 1, 1, 1, 0, 0])

"""Alignment of subtitles against clips whose truth is known, told by a voice that the reference is not."""

import numpy as np
import pytest

from benchmarks.narrated_clips import CONDITIONS, make_clip
from datamodules.preparation.alignment.aligner import AlignmentError, fit, starts
from datamodules.preparation.alignment.speech import Speech
from datamodules.preparation.speech import Speaker, SpeechError
from datamodules.preparation.subtitles import Cue

RATE_HZ = 16_000
TEXTS = [
    "a red seven left of a blue two",
    "the old bridge over the river",
    "three small boats",
    "nobody had seen the green lamp before",
    "a white nine above a yellow four",
    "rain in the morning",
    "she closed the window and went to sleep",
    "a purple five",
]
PAUSES_S = (0.7, 0.4, 1.3, 0.6, 1.8, 0.5, 0.9, 1.1)


@pytest.fixture(scope="module")
def narration():
    """Sound and true cues: another voice, slower and higher than the reference, in faint noise."""
    from datamodules.preparation.speech import Utterance, speak_many

    spoken = speak_many(Utterance(text, voice="en-gb-scotland+f4", rate_wpm=150, pitch=65) for text in TEXTS)
    pieces, cues, clock = [], [], 0
    for text, pause_s, waveform in zip(TEXTS, PAUSES_S, spoken, strict=True):
        start = clock + round(pause_s * RATE_HZ)
        clock = start + len(waveform)
        pieces += [np.zeros(round(pause_s * RATE_HZ)), waveform]
        cues.append(Cue(start / RATE_HZ, clock / RATE_HZ, text))
    sound = np.concatenate([*pieces, np.zeros(RATE_HZ)])
    return (sound + np.random.default_rng(0).normal(0, 1e-3, len(sound))).astype(np.float32), cues


def drifted(cues, offset_s, rate, jitter_s=0.1):
    shifts = np.random.default_rng(1).normal(0, jitter_s, len(cues)) + offset_s
    return [
        Cue(max(0.0, cue.start_s * rate + shift), max(0.1, cue.end_s * rate + shift), cue.text)
        for cue, shift in zip(cues, shifts, strict=True)
    ]


def errors_ms(alignment, truth):
    return 1000 * np.abs(alignment.starts_s - starts(truth))


@pytest.mark.parametrize(
    ("offset_s", "rate"),
    [(0.0, 1.0), (2.5, 0.98), (-0.5, 1.02), (1.5, 25 / 24), (3.0, 24 / 25), (-3.0, 30 / 24), (3.0, 24 / 30)],
)
def test_known_drift_is_recovered_from_another_voice(narration, offset_s, rate):
    sound, truth = narration
    alignment = Speech()(sound, drifted(truth, offset_s, rate))
    errors = errors_ms(alignment, truth)
    assert np.median(errors) <= 10
    assert np.quantile(errors, 0.95) <= 30


def test_no_cue_is_worse_than_before(narration):
    sound, truth = narration
    for subtitles in (truth, drifted(truth, 0.0, 1.0, jitter_s=0.01), drifted(truth, 2.0, 1.02)):
        assert (
            errors_ms(Speech()(sound, subtitles), truth) <= 1000 * abs(starts(subtitles) - starts(truth))
        ).all()


def test_what_is_right_already_is_left_as_it_is(narration):
    sound, truth = narration
    np.testing.assert_array_equal(Speech()(sound, truth).starts_s, starts(truth))


@pytest.mark.parametrize("condition", list(CONDITIONS))
def test_noise_and_echo_mislead_no_cue(condition):
    errors = []
    with Speaker() as speaker:
        for seed in range(20, 23):
            sound, truth, subtitles = make_clip(seed, CONDITIONS[condition], speaker)
            alignment = Speech()(sound, subtitles)
            assert (errors_ms(alignment, truth) <= 1000 * abs(starts(subtitles) - starts(truth))).all()
            errors.append(errors_ms(alignment, truth))
    assert np.median(np.concatenate(errors)) <= 10
    assert np.quantile(np.concatenate(errors), 0.9) <= 30


def test_a_jump_in_the_middle_is_followed(narration):
    sound, truth = narration
    cut = np.concatenate([sound, sound])
    again = [
        Cue(cue.start_s + len(sound) / RATE_HZ, cue.end_s + len(sound) / RATE_HZ, cue.text) for cue in truth
    ]
    subtitles = truth + [Cue(cue.start_s - 2.0, cue.end_s - 2.0, cue.text) for cue in again]
    alignment = Speech(stretch_s=20.0)(cut, subtitles)
    assert errors_ms(alignment, truth + again).max() <= 30


def test_cues_cut_off_at_zero_are_found_before(narration):
    sound, truth = narration
    subtitles = [Cue(max(0.0, cue.start_s - 3.0), max(0.2, cue.end_s - 3.0), cue.text) for cue in truth]
    assert errors_ms(Speech()(sound, subtitles), truth).max() <= 30


def test_a_language_that_cannot_be_spoken_is_refused_with_the_remedy():
    with pytest.raises(SpeechError, match="Activity"):
        Speech(voice="no-such").check()


def test_ends_are_found_as_well(narration):
    sound, truth = narration
    alignment = Speech()(sound, drifted(truth, 1.0, 1.0))
    assert np.median(np.abs(alignment.ends_s - [cue.end_s for cue in truth])) <= 0.02


def test_offset_and_rate_are_those_that_undo_the_drift(narration):
    sound, truth = narration
    line = Speech()(sound, drifted(truth, 2.0, 0.98, jitter_s=0.0)).line
    assert line.rate == pytest.approx(1 / 0.98, abs=0.003)
    assert line.offset_s == pytest.approx(-2.0 / 0.98, abs=0.05)


def test_sentences_without_a_subtitle_do_not_mislead(narration):
    sound, truth = narration
    kept = [cue for index, cue in enumerate(truth) if index not in (2, 5)]
    assert errors_ms(Speech()(sound, drifted(kept, 2.0, 1.0)), kept).max() <= 30


def test_stretches_join_to_the_same_alignment(narration):
    sound, truth = narration
    subtitles = drifted(truth, 2.0, 0.98)
    whole, parts = Speech()(sound, subtitles), Speech(stretch_s=8.0)(sound, subtitles)
    np.testing.assert_allclose(parts.starts_s, whole.starts_s, atol=0.005)


def test_subtitles_of_another_film_are_refused(narration):
    sound, truth = narration
    texts = ["completely other words", "about nothing", "that is heard here at all", "in any place of it"]
    strangers = [Cue(cue.start_s, cue.end_s, text) for cue, text in zip(truth, texts * 2, strict=True)]
    with pytest.raises(AlignmentError, match="not what is heard"):
        Speech()(sound, strangers)


def test_sound_shorter_than_the_subtitles_is_refused(narration):
    sound, truth = narration
    with pytest.raises(AlignmentError, match="too short"):
        Speech()(sound[:RATE_HZ], truth)


def test_line_is_indifferent_to_an_outlier():
    cues = [Cue(float(second), second + 0.5, "x") for second in range(20)]
    starts_s = 3 + 1.02 * starts(cues)
    starts_s[4] += 9
    line = fit(starts(cues), starts_s)
    assert (line.offset_s, line.rate) == (pytest.approx(3), pytest.approx(1.02))

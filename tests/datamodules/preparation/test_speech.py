"""Speech by espeak-ng: repeatable, bounded, and safe against its crashes."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from datamodules.preparation import speech
from datamodules.preparation.speech import (
    SAMPLING_RATE,
    Speaker,
    SpeechError,
    Utterance,
    sounding,
    speak,
    speak_many,
)


@pytest.fixture(scope="module")
def speaker():
    with Speaker() as speaker:
        yield speaker


@pytest.mark.parametrize("voice", ["en-us", "en-us+f3", "en-gb-scotland+m3"])
def test_an_utterance_sounds_the_same_in_every_process_whatever_was_said_before(speaker, voice):
    utterance = Utterance("a red seven", voice=voice)
    first = speaker.say(utterance).waveform
    speaker.say(Utterance("something else", voice="en-029+m3", pitch=90))
    np.testing.assert_array_equal(speaker.say(utterance).waveform, first)
    np.testing.assert_array_equal(speak("a red seven", voice=voice), first)


def test_waveform_is_16_khz_speech_without_silence_at_its_ends(speaker):
    waveform = speaker.say(Utterance("a red seven left of a blue two")).waveform
    assert waveform.dtype == np.float32 and np.abs(waveform).max() <= 1
    assert 1.3 < len(waveform) / SAMPLING_RATE < 2.2
    assert sounding(waveform) == (0, len(waveform))


def test_sound_starts_and_stops_where_it_rises_above_a_hundredth_of_the_peak():
    assert sounding(np.array([0, 0.004, 0.01, -0.5, 0.2, 0.004, 0], np.float32)) == (2, 5)
    assert sounding(np.zeros(5, np.float32)) == (0, 0)


def test_word_onsets_are_one_per_word_in_order_and_within_the_waveform(speaker):
    spoken = speaker.say(Utterance("seven green apples"))
    assert len(spoken.word_onsets_s) == 3 and sorted(spoken.word_onsets_s) == list(spoken.word_onsets_s)
    assert spoken.word_onsets_s[0] == 0 and spoken.word_onsets_s[-1] < len(spoken.waveform) / SAMPLING_RATE


@pytest.mark.parametrize("change", [{"voice": "en-us+f3"}, {"rate_wpm": 100}, {"pitch": 90}, {"volume": 30}])
def test_each_setting_takes_effect(speaker, change):
    plain = speaker.say(Utterance("a red seven")).waveform
    assert not np.array_equal(speaker.say(Utterance("a red seven", **change)).waveform, plain)


def test_markup_is_read_out_and_not_obeyed(speaker):
    paused = speaker.say(Utterance('seven <break time="5s"/> two')).waveform
    longest = max(
        map(len, "".join("s" if sample else "." for sample in np.abs(paused[::160]) > 1e-4).split("s"))
    )
    assert longest * 0.01 < 1.5


def test_a_text_without_sound_gives_no_samples(speaker):
    assert len(speaker.say(Utterance("...")).waveform) == 0


def test_many_come_in_the_order_asked_whatever_the_number_of_workers():
    utterances = [Utterance(f"number {number}") for number in range(9)]
    one, two = (list(speak_many(utterances, num_workers)) for num_workers in (1, 2))
    assert len(one) == len(two) == 9
    assert all(map(np.array_equal, one, two))
    assert not np.array_equal(one[0], one[1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"text": " "},
        {"text": "a\0b"},
        {"text": "a" * 1001},
        {"voice": "../en"},
        {"rate_wpm": 10},
        {"pitch": 100},
    ],
)
def test_what_cannot_be_said_is_refused_with_what_was_expected(wrong):
    with pytest.raises(SpeechError, match="expected"):
        Utterance(**{"text": "a red seven", **wrong})


def test_an_unknown_voice_is_named_and_the_speaker_goes_on(speaker):
    with pytest.raises(SpeechError, match=r"xx-nowhere.*no such voice"):
        speaker.say(Utterance("a red seven", voice="xx-nowhere"))
    assert len(speaker.say(Utterance("a red seven")).waveform)


def test_a_crash_or_hang_on_one_utterance_is_an_error_and_the_next_is_spoken(tmp_path, monkeypatch):
    """The script is run as it is, but for a text on which the library is made to die."""
    source = (speech.Path(speech.__file__).with_name("espeak.py")).read_text()
    marker = '    text = request["text"].encode()'
    assert marker in source
    dying = source.replace(
        marker, '    os.kill(os.getpid(), signal.SIGSEGV) if request["text"] == "die" else None\n' + marker
    )
    (tmp_path / "espeak.py").write_text(dying)
    monkeypatch.setattr(speech, "__file__", str(tmp_path / "speech.py"))
    with Speaker() as fragile:
        with pytest.raises(SpeechError, match="crashed or hung"):
            fragile.say(Utterance("die"))
        assert len(fragile.say(Utterance("a red seven")).waveform)


def test_a_killed_process_is_an_error_and_not_a_hang():
    with Speaker() as speaker:
        os.kill(speaker.process.pid, signal.SIGKILL)
        speaker.process.wait()
        with pytest.raises((SpeechError, BrokenPipeError)):
            speaker.say(Utterance("a red seven"))


def test_without_espeak_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(SpeechError, match=r"pip install 'trivium\[demo\]'"):
        Speaker()


def test_importing_speech_costs_no_audio_library():
    code = "import sys, datamodules.preparation.speech; print({'soxr', 'librosa', 'torch', 'scipy'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"

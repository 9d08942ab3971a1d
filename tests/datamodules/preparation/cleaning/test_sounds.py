"""Levels of sounds whose level is known, and the filter by them."""

import numpy as np
import pytest

from datamodules.preparation.cleaning.filter import Reject
from datamodules.preparation.cleaning.sounds import SoundLevel, measure

SINE = np.sin(2 * np.pi * 400 * np.arange(16_000) / 16_000)


def test_levels_are_those_worked_out_by_hand(as_wav):
    levels = measure(as_wav(0.1 * SINE))
    assert levels.dbfs == pytest.approx(-20 - 10 * np.log10(2), abs=0.01)
    assert (levels.clipped_share, levels.silent_share) == (0, 0)
    half_silent = measure(as_wav(np.concatenate([SINE * 0.5, np.zeros(16_000)])))
    assert half_silent.silent_share == pytest.approx(0.5)
    assert half_silent.snr_db > 60


def test_clipping_is_counted_in_every_channel(as_wav):
    stereo = np.stack([0.1 * SINE, np.clip(10 * SINE, -1, 1)], axis=1)
    assert measure(as_wav(stereo)).clipped_share == pytest.approx(
        (np.abs(10 * SINE) >= 1).mean() / 2, abs=1e-3
    )


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (1e-4 * SINE, "sound too quiet"),
        (np.clip(3 * SINE, -1, 1), "sound clipped"),
        (np.concatenate([0.5 * SINE, np.zeros(16_000 * 20)]), "sound mostly silent"),
        (0.3 * SINE, None),
    ],
)
def test_bad_recordings_are_rejected(values, reason, sample, as_wav):
    item = sample(wav=as_wav(values))
    if reason is None:
        assert SoundLevel().examine(item) is None
    else:
        with pytest.raises(Reject, match=reason):
            SoundLevel().examine(item)


def test_what_is_no_sound_is_left_to_others(sample, as_wav):
    for item in (sample(wav=b"RIFF"), sample(wav=as_wav([])), sample(txt=b"a dog")):
        assert SoundLevel().examine(item) is None
    with pytest.raises(ValueError, match="expected a share"):
        SoundLevel(max_silent_share=90)

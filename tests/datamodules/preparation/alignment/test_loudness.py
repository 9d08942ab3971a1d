"""The curve of a sound's loudness is short, bounded, and loud where the sound is."""

import numpy as np

from datamodules.preparation.alignment.loudness import loudness_curve


def test_a_long_sound_has_a_short_curve():
    curve = loudness_curve(np.random.default_rng(0).normal(size=1_000_000))["curve"]
    assert len(curve) <= 600
    assert 0 <= min(curve) <= max(curve) <= 99


def test_the_curve_is_high_where_the_sound_is_loud():
    sound = np.full(160_000, 1e-4)
    sound[80_000:] = 0.5
    found = loudness_curve(sound)
    assert found["seconds"] == 10
    assert max(found["curve"][:290]) < 10 < 90 < min(found["curve"][310:])


def test_silence_and_nothing_have_a_curve():
    assert set(loudness_curve(np.zeros(16_000))["curve"]) == {0}
    assert loudness_curve(np.zeros(0)) == {"seconds": 0.0, "curve": []}

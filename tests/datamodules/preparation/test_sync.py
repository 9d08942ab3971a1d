"""Frames and samples in step, to the sample; clocks that disagree."""

from fractions import Fraction

import numpy as np
import pytest

from datamodules.preparation.sync import (
    Drift,
    SyncError,
    drift_between,
    drift_from_events,
    repaired,
    sample_bounds,
)

RATE_HZ = 16_000


@pytest.mark.parametrize(
    "frame_rate", [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(30)]
)
@pytest.mark.parametrize("sampling_rate", [16_000, 44_100, 48_000])
def test_windows_tile_the_sound_and_never_drift(frame_rate, sampling_rate):
    bounds = sample_bounds(0, 1_000_000, frame_rate, sampling_rate)
    exact = sampling_rate / frame_rate
    sizes = np.diff(bounds)
    assert bounds[0] == 0
    assert set(sizes.tolist()) <= {int(exact), -int(-exact // 1)}
    for frame in (1, 2, 3, 999, 123_457, 999_999, 1_000_000):
        assert abs(Fraction(int(bounds[frame])) - frame * exact) <= Fraction(1, 2)
    np.testing.assert_array_equal(sample_bounds(999_000, 1000, frame_rate, sampling_rate), bounds[999_000:])


def test_a_frame_at_25_per_second_has_640_samples_of_16_khz():
    assert set(np.diff(sample_bounds(7, 100, Fraction(25), RATE_HZ)).tolist()) == {640}


def test_rates_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="positive"):
        sample_bounds(0, 1, Fraction(0), RATE_HZ)


@pytest.fixture(scope="module")
def scene():
    """Half a minute of bursts of coloured noise."""
    rng = np.random.default_rng(0)
    noise = np.convolve(rng.normal(size=30 * RATE_HZ), np.ones(8) / 8, mode="same")
    loud = np.repeat(rng.random(120) > 0.4, RATE_HZ // 4)
    return (0.3 * noise * loud + rng.normal(0, 1e-3, len(noise))).astype(np.float32)


@pytest.mark.parametrize(
    ("offset_s", "rate"), [(0.25, 1.0), (-0.4, 1.0), (0.1, 1.001), (0.3, 0.9995), (0.0, 1.00002)]
)
def test_drift_between_recordings_is_found_and_repaired_to_the_sample(scene, offset_s, rate):
    import soxr

    slower = soxr.resample(scene, RATE_HZ, RATE_HZ * rate, quality="VHQ")
    shift = round(offset_s * RATE_HZ)
    other = np.pad(slower, (shift, 0)) if shift >= 0 else slower[-shift:]
    found = drift_between(scene, other, RATE_HZ)
    assert abs(found.offset_s - offset_s) <= 1 / RATE_HZ
    assert abs(found.rate - rate) * 30 <= 1 / RATE_HZ
    mended = repaired(other, found, RATE_HZ)
    begin, length = RATE_HZ, min(len(mended), len(scene)) - 2 * RATE_HZ
    for shift in (-1, 1):
        exact = np.square(mended[begin:][:length] - scene[begin:][:length]).sum()
        assert exact < np.square(mended[begin + shift :][:length] - scene[begin:][:length]).sum()


def test_recordings_of_different_scenes_are_refused():
    one, other = np.random.default_rng(0).normal(size=(2, 5 * RATE_HZ))
    with pytest.raises(SyncError, match="of one scene"):
        drift_between(one, other, RATE_HZ)


@pytest.mark.parametrize(("offset_s", "rate"), [(0.0, 1.0), (0.173, 1.0), (-0.21, 1.0), (0.12, 1.0005)])
def test_flashes_and_clicks_tell_the_drift_to_the_sample(offset_s, rate):
    frames = np.arange(25, 25 * 30, 25) + np.random.default_rng(1).integers(-6, 7, 29)
    changes, sound = np.zeros(25 * 31), np.zeros(32 * RATE_HZ, np.float32)
    changes[frames] = 1
    for frame in frames:
        begin = round((offset_s + rate * frame / 25) * RATE_HZ)
        sound[begin : begin + 160] = 0.5
    found = drift_from_events(changes, Fraction(25), sound, RATE_HZ)
    assert abs(found.offset_s - offset_s) <= 1.5 / RATE_HZ
    assert abs(found.rate - rate) * 30 <= 1.5 / RATE_HZ


def test_pictures_that_show_nothing_of_the_sound_are_refused():
    rng = np.random.default_rng(2)
    with pytest.raises(SyncError):
        drift_from_events(
            1.0 * (rng.random(500) > 0.97), Fraction(25), rng.normal(size=20 * RATE_HZ), RATE_HZ
        )


def test_repair_shifts_and_pads():
    sound = np.arange(1, 5, dtype=np.float32)
    np.testing.assert_array_equal(repaired(sound, Drift(0.5, 1.0), 2), sound[1:])
    np.testing.assert_array_equal(repaired(sound, Drift(-1.0, 1.0), 2), [0, 0, 1, 2, 3, 4])

"""The examples' modalities and encoders: what they refuse, and that padding and empty batches change nothing."""

import numpy as np
import pytest
import torch

from datamodules.modalities.bad_sample import BadSample
from examples.data import EXAMPLES
from examples.imu import Imu, ImuEncoder
from examples.point_cloud import PointCloud, PointNet
from examples.user_history import History, HistoryEncoder
from modules import parts

ENCODERS = {
    "point_cloud": lambda: PointNet(dim=8),
    "imu": lambda: ImuEncoder(dim=8),
    "user_history": lambda: HistoryEncoder(num_items=240, dim=8),
}
HEADER = b"t,ax,ay,az,gx,gy,gz\n"


def made(example, number=0):
    """Return the modality that an example's encoder asks for, the bytes of one sample, and its suffix."""
    from datamodules.modalities.build import build_modalities

    encoder = ENCODERS[example]()
    modality = build_modalities({example: encoder.input_config})[example]
    [suffix] = modality.members
    return encoder, modality, EXAMPLES[example](np.random.default_rng(number)).members[suffix], suffix


def values(example, numbers=(0, 1, 2)):
    found = [made(example, number) for number in numbers]
    return [modality.decode(data, suffix) for _, modality, data, suffix in found]


@pytest.mark.parametrize("example", list(EXAMPLES))
def test_rows_beside_it_do_not_change_a_row(example):
    encoder, modality, _, _ = made(example)
    encoder.eval()
    together = encoder(modality.collate(values(example)))
    for row, value in enumerate(values(example)):
        alone = encoder(modality.collate([value]))
        real = together.features[row][together.mask[row]]
        torch.testing.assert_close(real, alone.features[0][alone.mask[0]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("example", list(EXAMPLES))
def test_no_rows_give_no_rows_and_every_parameter_a_gradient(example):
    encoder, modality, _, _ = made(example)
    tokens = encoder(modality.collate([]))
    assert tokens.features.shape[0] == 0 and tokens.features.shape[2] == encoder.dim
    tokens.features.sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize("example", list(EXAMPLES))
def test_training_sees_another_value_of_the_same_kind_drawn_from_its_generator(example):
    _, modality, data, suffix = made(example)
    value = modality.decode(data, suffix)
    first, second = (modality.augment(value, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first, second) and not np.array_equal(first, value)
    assert first.dtype == value.dtype
    assert np.array_equal(value, modality.decode(data, suffix))  # the value itself is left alone


@pytest.mark.parametrize("example", list(EXAMPLES))
def test_an_encoder_is_rebuilt_from_its_part_alone(example, tmp_path):
    encoder, modality, data, suffix = made(example)
    parts.save(encoder, tmp_path / "part")
    again = parts.load(str(tmp_path / "part"), allow=["examples"])
    assert again.input_config == encoder.input_config
    inputs = modality.collate([modality.decode(data, suffix)])
    assert torch.equal(again(inputs).features, encoder(inputs).features)


@pytest.mark.parametrize("example", list(EXAMPLES))
def test_cut_and_damaged_bytes_are_a_value_or_a_bad_sample_never_another_error(example):
    _, modality, data, suffix = made(example)
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(data[: rng.integers(len(data) + 1)])
        for place in rng.integers(0, max(1, len(damaged)), 3) if damaged else ():
            damaged[place] = rng.integers(256)
        try:
            value = modality.decode(bytes(damaged), suffix)
        except BadSample:
            continue
        assert np.isfinite(value).all()
        assert all(tensor.isfinite().all() for tensor in modality.collate([value]).values())


def cloud(*points):
    return np.array(points, "<f4").tobytes()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "point_cloud_size"),
        (b"\0" * 15, "point_cloud_size"),
        (b"\0" * ((1 << 24) + 16), "point_cloud_size"),
        (cloud([0, 0, 0, np.nan]), "point_cloud_range"),
        (cloud([0, np.inf, 0, 0]), "point_cloud_range"),
        (cloud([3e38, 0, 0, 0], [3e38, 0, 0, 0]), "point_cloud_range"),
    ],
)
def test_bytes_that_are_no_point_cloud_are_refused(data, reason):
    with pytest.raises(BadSample) as bad:
        PointCloud().decode(data, "bin")
    assert bad.value.reason == reason


def test_where_a_cloud_lies_and_how_large_it_is_does_not_matter():
    points = np.random.default_rng(0).normal(size=(40, 4)).astype("f4")
    moved = points * [8, 8, 8, 1] + [100, -50, 2, 0]
    decoded = [PointCloud().decode(cloud(*each), "bin") for each in (points, moved)]
    np.testing.assert_allclose(*decoded, atol=1e-4)
    assert PointCloud().decode(cloud([1, 2, 3, 0.5]), "bin").tolist() == [[0, 0, 0, 0.5]]


def test_a_large_cloud_is_thinned_evenly():
    points = np.zeros((1000, 4), "f4")
    points[:, 3] = np.arange(1000)
    kept = PointCloud(max_points=10).decode(points.tobytes(), "bin")[:, 3]
    assert kept.tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "imu_layout"),
        (HEADER, "imu_layout"),
        (HEADER + b"0,0,0,0,0,0,0\n", "imu_layout"),
        (HEADER + b"0,0,0,0,0,0\n1,0,0,0,0,0\n", "imu_layout"),
        (HEADER + b"0,0,0,0,0,0,0\n1,0,0\n", "imu_layout"),
        (HEADER + b"0,0,0,0,0,0,0\n1,0,0,nan,0,0,0\n", "imu_layout"),
        (HEADER + b"0,0,0,0,0,0,0\n1,0,0,inf,0,0,0\n", "imu_layout"),
        (HEADER + b"0,0,0,0,0,0,0\n1,0,0,fast,0,0,0\n", "imu_layout"),
        (HEADER + b"0,0,0,0,0,0,0\n\xff\xfe,0,0,0,0,0,0\n", "imu_layout"),
        (HEADER + b"1,0,0,0,0,0,0\n1,0,0,0,0,0,0\n", "imu_time"),
        (HEADER + b" " * (1 << 22), "imu_too_large"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*input contained no data")
def test_bytes_that_are_no_motion_are_refused(data, reason):
    with pytest.raises(BadSample) as bad:
        Imu().decode(data, "csv")
    assert bad.value.reason == reason


def test_motion_of_any_rate_is_brought_to_one():
    def log(rate):
        times = np.arange(0, 4, 1 / rate) + 100
        rows = [f"{time},{np.sin(time)},0,9.81,0,0,{time}" for time in times]
        return HEADER + "\n".join(rows).encode()

    slow, fast = (Imu(sampling_rate=50, max_seconds=2).decode(log(rate), "csv") for rate in (30, 200))
    assert slow.shape == fast.shape == (6, 100)
    np.testing.assert_allclose(slow, fast, atol=1e-3)
    np.testing.assert_allclose(fast[2], 1.0)


def test_an_hour_in_two_readings_takes_no_more_than_max_seconds():
    data = HEADER + b"0,0,0,0,0,0,0\n1e11,0,0,0,0,0,0\n"
    assert Imu(sampling_rate=50, max_seconds=10).decode(data, "csv").shape == (6, 500)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "history_layout"),
        (b" \n", "history_layout"),
        (b"1 2 x", "history_layout"),
        (b"1 -2", "history_layout"),
        (b"1 nan", "history_layout"),
        (b"1 " + b"9" * 5000, "history_layout"),
        (b"1 0", "unknown_item"),
        (b"1 11", "unknown_item"),
        (b"1 " * (1 << 20), "history_too_large"),
    ],
)
def test_bytes_that_are_no_history_are_refused(data, reason):
    with pytest.raises(BadSample) as bad:
        History(num_items=10).decode(data, "history")
    assert bad.value.reason == reason


def test_of_a_long_history_the_latest_items_count():
    assert History(num_items=99, max_items=3).decode(b"5 4 3 2 1", "history").tolist() == [3, 2, 1]

"""Cached features: what goes in comes out, and bytes that lie are refused before they are believed."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save

from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.features import Features, FeaturesError, check_features, pack, read_header, unpack
from datamodules.shards.reader import ShardReader
from datamodules.shards.writer import write_shards
from datamodules.stream import SampleSet

MADE_BY = "a" * 64
OTHER = "b" * 64


def made(tokens=3, dim=4, dtype=np.float16, seed=0):
    return np.random.default_rng(seed).standard_normal((tokens, dim)).astype(dtype)


@pytest.fixture
def features():
    return Features("image", MADE_BY, dim=4, part="runs/align/parts/encoders.image")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_come_back_without_the_padding(dtype, features):
    mask = np.array([True, False, True, False, False])
    values = made(5, dtype=dtype)
    found, real = features.decode(pack(values, mask, MADE_BY), "image.safetensors")
    np.testing.assert_array_equal(found, values[:3])
    np.testing.assert_array_equal(real, mask[:3])
    assert found.dtype == dtype


def test_a_batch_is_padded_and_masked(features):
    values = [features.decode(pack(made(n), np.ones(n, bool), MADE_BY), "") for n in (1, 3)]
    inputs = features.collate(values)
    assert inputs["features"].shape == (2, 3, 4)
    assert inputs["mask"].tolist() == [[True, False, False], [True, True, True]]
    assert not inputs["features"][0, 1:].any()
    assert features.collate([])["features"].shape == (0, 1, 4)


def test_no_real_token_is_a_sample_like_any_other(features):
    value = features.decode(pack(made(2), np.zeros(2, bool), MADE_BY), "")
    assert features.collate([value])["mask"].tolist() == [[False]]


def test_numbers_that_are_not_finite_are_neither_written_nor_read(features):
    bad = np.full((1, 4), np.inf, np.float16)
    with pytest.raises(FeaturesError, match="float32"):
        pack(bad, np.ones(1, bool), MADE_BY)
    data = save({"features": bad, "mask": np.ones(1, bool)}, metadata={"encoder": MADE_BY})
    with pytest.raises(BadSample, match="not_finite"):
        features.decode(data, "")


def changed(data, **changes):
    """Return a member whose header says something else."""
    size = struct.unpack("<Q", data[:8])[0]
    header = {**json.loads(data[8 : 8 + size]), **changes}
    text = json.dumps({name: value for name, value in header.items() if value is not None}).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


GOOD = pack(made(), np.ones(3, bool), MADE_BY)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04\x95\x00",
        GOOD[:7],
        GOOD[:-1],
        GOOD + b"\0",
        struct.pack("<Q", 1 << 60) + GOOD[8:],
        struct.pack("<Q", 1 << 13) + b"[" * (1 << 13),
        changed(GOOD, mask=None),
        changed(GOOD, __metadata__=None),
        changed(GOOD, __metadata__={"encoder": MADE_BY}, more={"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}),
        changed(GOOD, features={"dtype": "F16", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 24]}),
        changed(GOOD, features={"dtype": "F16", "shape": [-3, -4], "data_offsets": [0, 24]}),
        changed(GOOD, features={"dtype": "F16", "shape": [3, 4, 1], "data_offsets": [0, 24]}),
        changed(GOOD, features={"dtype": "F64", "shape": [3, 4], "data_offsets": [0, 24]}),
        changed(GOOD, features={"dtype": "F16", "shape": [3, 4], "data_offsets": [8, 32]}),
        changed(GOOD, features={"dtype": "F16", "shape": [3, 4], "data_offsets": "all"}),
        changed(GOOD, features={"dtype": ["F16"], "shape": [3, 4], "data_offsets": [0, 24]}),
    ],
)  # fmt: skip
def test_damaged_and_lying_bytes_are_bad_samples(data, features):
    with pytest.raises(BadSample, match="undecodable_features"):
        features.decode(data, "image.safetensors")
    with pytest.raises(BadSample, match="undecodable_features"):
        unpack(data)


def test_features_of_another_encoder_or_width_are_bad_samples(features):
    for data in (pack(made(), np.ones(3, bool), OTHER), pack(made(dim=5), np.ones(3, bool), MADE_BY)):
        with pytest.raises(BadSample, match="features_of_another_encoder"):
            features.decode(data, "")
    assert read_header(GOOD).encoder == MADE_BY


def shards_of(folder, *encoders):
    """Write a shard with two samples for each encoder, the first without features."""
    samples = []
    for number, encoder in enumerate(encoders):
        member = {"image.safetensors": pack(made(seed=number), np.ones(3, bool), encoder)}
        samples += [
            {"__key__": f"{number}a", "txt": b"a dog"},
            {"__key__": f"{number}b", "txt": b"a cat", **member},
        ]
    write_shards(samples, folder, max_samples=2)
    return folder


def test_a_set_with_a_shard_made_by_another_encoder_is_refused_with_both_hashes(features, tmp_path):
    check_features(ShardReader(shards_of(tmp_path / "good", MADE_BY, MADE_BY)), {"image": features})
    folder = shards_of(tmp_path / "mixed", MADE_BY, OTHER)
    with pytest.raises(
        FeaturesError, match=rf"000001.tar: 1b.*{OTHER}.*{MADE_BY}.*encoders.image.*prepare the features"
    ):
        SampleSet(folder, {"image": features})


def test_a_set_reads_features_in_place_of_media(features, tmp_path):
    samples = SampleSet(shards_of(tmp_path / "good", MADE_BY, MADE_BY), {"image": features})
    batch = samples.batch(range(2), cursor=2)
    assert batch.keys == ["0b", "1b"]
    np.testing.assert_array_equal(batch.inputs["image"]["features"][1].numpy(), made(seed=1))

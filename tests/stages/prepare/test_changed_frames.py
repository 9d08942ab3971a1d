"""Frames that did not change are not encoded again."""

import numpy as np
import pytest

from stages.prepare.changed_frames import encode_frames, small_grey, sources


def encoder():
    """Return an encoder of two tokens that counts the frames it is given."""

    def encode(frames):
        encode.seen += len(frames)
        return frames.astype(np.float32).mean((1, 2))[:, None, :].repeat(2, 1)

    encode.seen = 0
    return encode


def video(*levels, height=48, width=64):
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    return np.stack([np.clip(noise + level, 0, 255) for level in levels]).astype(np.uint8)


def test_equal_frames_are_encoded_once_and_features_are_those_of_encoding_all():
    frames = video(0, 0, 0, 50, 50, 0)
    encode = encoder()
    features, hits = encode_frames(frames, encode)
    assert (encode.seen, hits) == (3, 3)
    np.testing.assert_array_equal(features, encoder()(frames))


def test_one_pixel_makes_a_frame_another_unless_a_threshold_is_given():
    frames = video(0, 0)
    frames[1, 5, 5, 1] += 1
    assert list(sources(frames, 0)) == [0, 1]
    assert list(sources(frames, 0.5)) == [0, 0]


def test_a_slow_fade_is_encoded_again_once_it_has_gone_far_enough():
    frames = video(*range(0, 100, 2))
    encode = encoder()
    features, hits = encode_frames(frames, encode, threshold=5)
    assert 12 <= encode.seen == len(frames) - hits <= 20
    assert np.abs(features - encoder()(frames)).max() <= 6.5


def test_a_threshold_counts_grey_levels():
    frames = video(0, 3)
    assert list(sources(frames, 2.9)) == [0, 1]
    assert list(sources(frames, 3.1)) == [0, 0]


@pytest.mark.parametrize(("height", "width"), [(48, 64), (7, 90), (1, 1), (33, 31)])
def test_small_frames_hold_the_mean_of_the_large(height, width):
    frames = np.full((2, height, width, 3), 100, np.uint8)
    small = small_grey(frames)
    assert small.shape[1] <= 32 and small.shape[2] <= 32
    np.testing.assert_allclose(small, 100, rtol=1e-5)


def test_no_frame_and_a_negative_threshold_are_refused():
    with pytest.raises(ValueError, match="no frame"):
        encode_frames(video(0)[:0], encoder())
    with pytest.raises(ValueError, match="expected 0 or more"):
        encode_frames(video(0), encoder(), threshold=-1)

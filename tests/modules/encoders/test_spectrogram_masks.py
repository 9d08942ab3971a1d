"""Hiding parts of a spectrogram: exactly those that were drawn, as shares of what is real."""

import torch

from modules.encoders.spectrogram import hide_masked


def test_only_the_spans_and_bands_that_are_named_become_zero():
    frames, mask = torch.ones(2, 10, 8), torch.ones(2, 10, dtype=torch.bool)
    mask[1, 5:] = False  # half as long: the same shares are half the frames
    time_masks = torch.tensor([[[0.2, 0.6]], [[0.2, 0.6]]])
    mel_masks = torch.tensor([[[0.0, 0.0]], [[0.5, 0.75]]])
    hidden = hide_masked(frames, mask, time_masks, mel_masks) == 0
    assert hidden[0].all(1).tolist() == [2 <= frame < 6 for frame in range(10)]
    assert hidden[1].all(1).tolist() == [1 <= frame < 3 for frame in range(10)]
    assert hidden[1, 0].tolist() == [4 <= band < 6 for band in range(8)]
    assert hidden[0].any(1).sum() == 4


def test_masks_that_are_empty_hide_nothing():
    frames, mask = torch.randn(2, 10, 8), torch.ones(2, 10, dtype=torch.bool)
    assert torch.equal(hide_masked(frames, mask, torch.zeros(2, 3, 2), torch.zeros(2, 1, 2)), frames)
    assert torch.equal(hide_masked(frames, mask, torch.zeros(2, 0, 2), torch.zeros(2, 0, 2)), frames)


def test_the_mean_that_zero_stands_for_is_the_rows_own():
    from modules.encoders.spectrogram import LogMel

    log_mel = LogMel(sampling_rate=8000, num_mels=8)
    frames, mask = log_mel(torch.randn(1, 4000), torch.tensor([4000]))
    assert abs(frames[mask].mean()) < 1e-5

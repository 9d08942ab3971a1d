"""Front ends for sound: equal to librosa's, in batches, whatever is padded; convolutions; units."""

import numpy as np
import pytest
import torch
from families import save_sound, sound_inputs

from modules import parts


def sounds() -> dict[str, torch.Tensor]:
    """Return noise, a rising tone that breaks off, and a click in silence, of different lengths."""
    lengths = torch.tensor([16000, 12345, 4800])
    time = torch.arange(16000) / 16000
    waveform = torch.stack(
        [
            0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0)),
            0.5 * torch.sin(2 * torch.pi * (200 + 2000 * time) * time),
            torch.zeros(16000).index_fill(0, torch.tensor([2400]), 0.9),
        ]
    )
    return {"waveform": waveform * (torch.arange(16000) < lengths.unsqueeze(1)), "lengths": lengths}


def test_mel_power_of_a_batch_equals_librosas_of_each_sound():
    import librosa

    from modules.encoders.spectrogram import LogMel

    inputs = sounds()
    front = LogMel(sampling_rate=16000, num_mels=64)
    found, quietest = front.log_power(inputs["waveform"]).numpy(), []
    for row, length in enumerate(inputs["lengths"].tolist()):
        power = librosa.feature.melspectrogram(
            y=inputs["waveform"][row, :length].numpy().astype(np.float64),
            sr=16000,
            n_fft=400,
            hop_length=160,
            n_mels=64,
            pad_mode="constant",
        )
        expected = np.log(np.maximum(power, np.exp(-23)))
        quietest.append(power[power > 0].min() / power.max())
        np.testing.assert_allclose(found[row, :, : power.shape[1]], expected, atol=1e-5, rtol=0)
    assert min(quietest) < 1e-9  # a transform in float32 has no digits for a band that quiet


def test_cepstral_coefficients_of_a_batch_equal_librosas_of_each_sound():
    import librosa

    from modules.encoders.mfcc import MFCC

    inputs = sounds()
    found = MFCC(sampling_rate=16000).coefficients(**inputs).numpy()
    assert found.shape[:2] == (3, 13)
    for row, length in enumerate(inputs["lengths"].tolist()):
        expected = librosa.feature.mfcc(
            y=inputs["waveform"][row, :length].numpy().astype(np.float64),
            sr=16000,
            n_mfcc=13,
            n_fft=400,
            hop_length=160,
            pad_mode="constant",
        )
        np.testing.assert_allclose(found[row, :, : expected.shape[1]], expected, atol=1e-4, rtol=0)


def test_front_ends_are_not_rounded_where_training_is_in_half_precision():
    from modules.encoders.mfcc import MFCC
    from modules.encoders.spectrogram import LogMel

    inputs = sounds()
    for front in (LogMel(sampling_rate=16000, num_mels=64), MFCC(sampling_rate=16000)):
        expected, _ = front(**inputs)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(front(**inputs)[0], expected, atol=0, rtol=0)


def test_more_coefficients_than_bands_are_refused():
    from modules.encoders.mfcc import MFCC

    with pytest.raises(ValueError, match="20 coefficients of 10 mel bands"):
        MFCC(sampling_rate=16000, num_coefficients=20, num_mels=10)


def test_a_token_of_the_waveform_depends_on_the_samples_under_it_alone():
    from modules.encoders.waveform_cnn import WaveformCNN

    encoder = WaveformCNN(16).eval()
    inputs = {"waveform": 0.1 * torch.randn(1, 4000), "lengths": torch.tensor([4000])}
    before = encoder(inputs).features
    assert before.shape == (1, 12, 16)  # (4000 - 400) / 320 + 1
    inputs["waveform"][0, 2000] += 1.0
    changed = (encoder(inputs).features - before).abs().amax(2)[0] > 0
    assert changed.nonzero().flatten().tolist() == [
        6
    ]  # token 5 ends at 320 · 5 + 400, token 7 begins at 320 · 7


def test_kernels_without_strides_are_refused():
    from modules.encoders.waveform_cnn import WaveformCNN

    with pytest.raises(ValueError, match="expected one stride for each kernel"):
        WaveformCNN(16, kernels=(10, 3), strides=(5,))


@pytest.fixture
def units(tmp_path):
    from modules.encoders.discrete_units import DiscreteUnits
    from modules.encoders.wav2vec import Wav2VecEncoder

    torch.manual_seed(0)
    return DiscreteUnits(Wav2VecEncoder(str(save_sound("wav2vec2", tmp_path / "w"))), num_units=6, dim=8)


def test_a_unit_is_the_number_of_the_nearest_centroid_and_centroids_are_in_the_part(units, tmp_path):
    inputs = sound_inputs()
    distance = units.fit([inputs, inputs], seed=1)
    numbers, mask = units.units(inputs)
    features = units.encoder(inputs).features
    for row, token in ((0, 0), (0, 300), (1, 100)):
        away = (units.centroids - features[row, token]).square().sum(1)
        assert away.argmin() == numbers[row, token]
    assert distance == pytest.approx(
        float((units.centroids[numbers] - features)[mask].square().sum(1).mean()), rel=0.05
    )
    assert distance < float(features[mask].var(0, correction=0).sum())
    parts.save(units, tmp_path / "part")
    again = parts.load(str(tmp_path / "part"))
    assert "centroids" in parts.read_card(tmp_path / "part")["tensors"]
    assert torch.equal(again.units(inputs)[0], numbers)


def test_the_same_seed_finds_the_same_centroids_and_the_encoder_does_not_learn(units):
    units.fit([sound_inputs()], seed=3)
    first = units.centroids.clone()
    units.fit([sound_inputs()], seed=3)
    assert torch.equal(units.centroids, first)
    units.train()
    assert not units.encoder.training
    units(sound_inputs()).features.sum().backward()
    assert {name for name, value in units.named_parameters() if value.grad is not None} == {
        "embedding.weight"
    }


def test_units_that_were_not_fitted_or_have_too_little_sound_are_refused(units):
    with pytest.raises(ValueError, match="call fit"):
        units(sound_inputs())
    short = {"waveform": torch.zeros(1, 60), "lengths": torch.tensor([60])}
    with pytest.raises(ValueError, match="1 tokens for 6 units"):
        units.fit([short])


def test_repeated_units_are_left_out():
    from modules.encoders.discrete_units import without_repeats

    numbers = torch.tensor([[4, 4, 2, 2, 4, 0], [1, 1, 1, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]]).bool()
    found, kept = without_repeats(numbers, mask)
    assert found.tolist() == [[4, 2, 4, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    assert kept.sum(1).tolist() == [3, 1]

"""Every encoder: padding is invisible, zero rows are a batch like any other, parts come back as they were."""

import pytest
import torch

from modules import parts

MODALITIES = ("text", "image", "audio")


@pytest.fixture(params=MODALITIES)
def encoder_and_inputs(request: pytest.FixtureRequest):
    return request.getfixturevalue(f"{request.param}_encoder"), request.getfixturevalue(
        f"{request.param}_inputs"
    )


def test_tokens_have_the_width_the_encoder_names(encoder_and_inputs):
    encoder, inputs = encoder_and_inputs
    tokens = encoder(inputs)
    assert tokens.features.shape[0] == 3
    assert tokens.features.shape[2] == encoder.dim


def test_zero_rows_give_zero_rows_and_zero_gradients_for_every_parameter(encoder_and_inputs):
    encoder, inputs = encoder_and_inputs
    tokens = encoder({name: tensor[:0] for name, tensor in inputs.items()})
    assert len(tokens) == 0
    tokens.features.sum().backward()
    used = [name for name, parameter in encoder.named_parameters() if parameter.grad is not None]
    encoder.zero_grad()
    encoder(inputs).features.sum().backward()
    assert used == [name for name, parameter in encoder.named_parameters() if parameter.grad is not None]


def test_zero_rows_of_zero_width_are_encoded_too(text_encoder, audio_encoder):
    empty = torch.zeros(0, 0, dtype=torch.long)
    assert len(text_encoder({"input_ids": empty, "attention_mask": empty.bool()})) == 0
    assert (
        len(audio_encoder({"waveform": torch.zeros(0, 0), "lengths": torch.zeros(0, dtype=torch.long)})) == 0
    )


def test_padding_does_not_change_an_embedding(text_encoder, text_inputs, audio_encoder, audio_inputs):
    for encoder, inputs, count in ((text_encoder, text_inputs, 3), (audio_encoder, audio_inputs, 9000)):
        names = [name for name, tensor in inputs.items() if tensor.ndim == 2]
        alone = {
            name: tensor[1:2, :count] if name in names else tensor[1:2] for name, tensor in inputs.items()
        }
        together = encoder(inputs)
        single = encoder(alone)
        real = single.mask[0]
        assert together.mask[1].sum() == real.sum()
        torch.testing.assert_close(
            together.features[1][together.mask[1]], single.features[0][real], atol=1e-5, rtol=1e-4
        )


def test_a_part_comes_back_as_it_was(encoder_and_inputs, tmp_path):
    encoder, inputs = encoder_and_inputs
    again = parts.load(str(parts.save(encoder, tmp_path / "part"))).eval()
    assert again.input_config == encoder.input_config
    torch.testing.assert_close(again(inputs).features, encoder(inputs).features, atol=0, rtol=0)


def test_log_mel_equals_librosa():
    import librosa
    import numpy as np

    from modules.encoders.spectrogram import LogMel

    front = LogMel(sampling_rate=16000, num_mels=40)
    waveform = torch.randn(1, 8000) * 0.1
    frames, _ = front(waveform, torch.tensor([8000]))
    power = librosa.feature.melspectrogram(
        y=waveform[0].numpy(), sr=16000, n_fft=400, hop_length=160, n_mels=40, pad_mode="constant"
    )
    expected = np.log(np.maximum(power, np.exp(-23))).T
    expected = expected[:50]
    expected = (expected - expected.mean()) / np.sqrt(expected.var() + 1e-5)
    np.testing.assert_allclose(frames[0, :50].numpy(), expected, atol=1e-4)


def test_a_masked_patch_cannot_be_seen(image_encoder, image_inputs):
    masked = torch.zeros(3, 4, dtype=torch.bool)
    masked[:, 0] = True
    changed = image_inputs["pixels"].clone()
    changed[:, :, :8, :8] = 255 - changed[:, :, :8, :8]
    before = image_encoder({**image_inputs, "masked": masked})
    after = image_encoder({"pixels": changed, "masked": masked})
    torch.testing.assert_close(before.features, after.features)
    assert not torch.allclose(
        image_encoder(image_inputs).features, image_encoder({"pixels": changed}).features
    )


def test_an_unknown_model_type_is_refused():
    from modules.encoders.huggingface import ImageEncoder

    with pytest.raises(ValueError, match="model_type 'vlt' is not known"):
        ImageEncoder(config={"model_type": "vlt"})

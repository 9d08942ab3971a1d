"""A cached encoder says what its encoder says of itself, and hands it over as it is."""

import pytest
import torch

from modules import parts
from modules.encoders.cached import CachedEncoder, modality_of


@pytest.fixture
def path(image_encoder, tmp_path):
    return str(parts.save(image_encoder, tmp_path / "encoders.image"))


def test_it_is_as_wide_as_its_encoder_and_asks_for_its_features(path, image_encoder):
    cached = CachedEncoder(path)
    assert cached.dim == image_encoder.dim
    arguments = cached.input_config["init_args"]
    assert (arguments["modality"], arguments["dim"]) == ("image", image_encoder.dim)
    assert arguments["encoder"] == parts.fingerprint(parts.read_card(path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_features_pass_through_it_in_float32(path, dtype):
    features, mask = torch.randn(2, 3, 16).to(dtype), torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()
    tokens = CachedEncoder(path)({"features": features, "mask": mask})
    assert tokens.features.dtype == torch.float32
    torch.testing.assert_close(tokens.features, features.float(), rtol=0, atol=0)
    assert tokens.mask is mask
    empty = CachedEncoder(path)({"features": features[:0, :1], "mask": mask[:0, :1]})
    assert len(empty) == 0


def test_what_it_hands_over_is_its_encoder_unchanged_and_frozen(path, tmp_path):
    cached = CachedEncoder(path).train()
    assert not any(parameter.requires_grad for parameter in cached.parameters())
    again = parts.save(cached.handed_over(), tmp_path / "next" / "encoders.image", stage="Align")
    assert parts.fingerprint(parts.read_card(again)) == parts.fingerprint(parts.read_card(path))


def test_any_other_encoder_hands_over_itself(image_encoder):
    assert image_encoder.handed_over() is image_encoder


def test_a_change_of_one_weight_is_another_fingerprint(path, image_encoder, tmp_path):
    with torch.no_grad():
        next(image_encoder.parameters()).view(-1)[0] += 1e-3
    other = str(parts.save(image_encoder, tmp_path / "other.image"))
    assert parts.fingerprint_of(other) != parts.fingerprint_of(path)


def test_the_modality_is_the_last_word_of_the_name_unless_it_is_given(image_encoder, tmp_path):
    assert modality_of("runs/a/last.ckpt#encoders.audio") == "audio"
    path = str(parts.save(image_encoder, tmp_path / "photos"))
    with pytest.raises(ValueError, match="say `modality`"):
        CachedEncoder(path)
    assert CachedEncoder(path, modality="image").modality == "image"


def test_a_part_that_is_no_encoder_is_refused(tmp_path):
    from modules.projections import Projection

    path = str(parts.save(Projection(4, 4), tmp_path / "projections.image"))
    with pytest.raises(ValueError, match="expected an encoder"):
        CachedEncoder(path)

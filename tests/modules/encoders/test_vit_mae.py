"""The encoder of masked autoencoding as a part: it comes back with its weights and with the share that it hides."""

import torch

from modules import parts
from modules.encoders.vit_mae import MaskedAutoencoderViT

CONFIG = {
    "model_type": "vit_mae",
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "mask_ratio": 0.5,
}


def test_a_saved_encoder_gives_the_same_tokens_and_hides_the_same_share(image_inputs, tmp_path):
    encoder = MaskedAutoencoderViT(config=CONFIG).eval()
    parts.save(encoder, tmp_path / "encoders.image")
    loaded = parts.load(str(tmp_path / "encoders.image")).eval()
    torch.testing.assert_close(loaded(image_inputs).features, encoder(image_inputs).features)
    noise = torch.rand(3, 16)
    visible = loaded({**image_inputs, "noise": noise}).features
    assert visible.shape == (3, 1 + 8, 16)
    torch.testing.assert_close(visible, encoder({**image_inputs, "noise": noise}).features)


def test_hidden_patches_are_not_seen(image_inputs):
    encoder = MaskedAutoencoderViT(config=CONFIG).eval()
    noise = torch.rand(3, 16)
    seen = encoder({**image_inputs, "noise": noise}).features
    pixels = image_inputs["pixels"].clone()
    hidden = (noise.argsort(1).argsort(1) >= 8).view(3, 1, 4, 4)
    covered = hidden.repeat_interleave(4, 2).repeat_interleave(4, 3).expand_as(pixels)
    pixels[covered] = 255 - pixels[covered]
    torch.testing.assert_close(encoder({"pixels": pixels, "noise": noise}).features, seen)

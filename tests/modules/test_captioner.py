"""Captions of tiny models of three families, saved as transformers saves them."""

import numpy as np
import pytest
import torch

from modules.captioner import Captioner, CaptionerError, find_model, sha256_of


@pytest.fixture
def pictures():
    draw = np.random.default_rng(0)
    return [draw.integers(0, 255, size, dtype=np.uint8) for size in ((40, 50, 3), (32, 32, 3), (90, 30, 3))]


@pytest.mark.parametrize("family", ["blip", "git", "vit-gpt2"])
@pytest.mark.parametrize("prompt", ["", "a photo of"])
def test_the_same_picture_gets_the_same_words_whatever_stands_beside_it(family, prompt, captioners, pictures):
    captioner = Captioner(captioners[family], prompt=prompt, max_new_tokens=6)
    together = captioner(pictures)
    assert together == [captioner([picture])[0] for picture in pictures]
    assert together == Captioner(captioners[family], prompt=prompt, max_new_tokens=6)(pictures)
    assert all(text.startswith(prompt) for text in together)
    assert captioner([]) == []


def test_the_prompt_reaches_the_model(captioners, pictures):
    plain, prompted = (
        Captioner(captioners["blip"], prompt=prompt)(pictures) for prompt in ("", "a photo of")
    )
    assert [text.removeprefix("a photo of").strip() for text in prompted] != plain


def test_the_sha256_of_a_model_changes_with_its_weights(captioners, tmp_path):
    before = sha256_of(find_model(captioners["git"]))
    captioner = Captioner(captioners["git"])
    for saved in (captioner.model, captioner.tokenizer, captioner.images):
        saved.save_pretrained(tmp_path / "same")
    assert sha256_of(tmp_path / "same") == sha256_of(tmp_path / "same")
    with torch.no_grad():
        next(captioner.model.parameters()).view(-1)[0] += 1
    captioner.model.save_pretrained(tmp_path / "same")
    assert sha256_of(tmp_path / "same") != before


def test_a_model_that_cannot_caption_is_refused(captioners, tmp_path):
    from transformers import ViTConfig, ViTModel

    captioner = Captioner(captioners["git"])
    captioner.tokenizer.save_pretrained(tmp_path)
    captioner.images.save_pretrained(tmp_path)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(**size, image_size=32, patch_size=16)).save_pretrained(tmp_path)
    with pytest.raises(CaptionerError, match="expected a model such as BLIP"):
        Captioner(str(tmp_path))


def test_a_checkpoint_that_lacks_weights_is_refused(captioners, tmp_path):
    captioner = Captioner(captioners["git"])
    state = {
        name: value for name, value in captioner.model.state_dict().items() if "visual_projection" not in name
    }
    captioner.model.save_pretrained(tmp_path, state_dict=state)
    captioner.tokenizer.save_pretrained(tmp_path)
    captioner.images.save_pretrained(tmp_path)
    with pytest.raises(CaptionerError, match="lacks"):
        Captioner(str(tmp_path))

"""What our towers leave out changes nothing: neither what they give nor how they learn, against open_clip's own."""

import pytest
import torch
from families import CLIP

CONTEXT = CLIP["text_cfg"]["context_length"]


def towers(**text):
    """Return open_clip's model and our encoders over the same weights, which carry a signal through."""
    from open_clip.model import CLIP as Model

    from modules.encoders.open_clip import OpenClipImageEncoder, OpenClipTextEncoder

    config = {**CLIP, "text_cfg": {**CLIP["text_cfg"], **text}}
    torch.manual_seed(0)
    model = Model(**config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    weights = model.state_dict()
    image = OpenClipImageEncoder(config=config, pooled=True)
    image.trunk.load_state_dict({name: weights[f"visual.{name}"] for name in image.trunk.state_dict()})
    encoder = OpenClipTextEncoder(config=config, pooled=True)
    encoder.trunk.load_state_dict({name: weights[name] for name in encoder.trunk.state_dict()})
    return model, image, encoder


def texts(*lengths, longest=None):
    """Return Inputs of texts with so many tokens, padded with anything, and their ids padded to the context."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(longest or max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    ids = torch.randint(1, 1000, mask.shape, generator=generator)
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = 49407
    padded = torch.zeros(len(lengths), CONTEXT, dtype=torch.long)
    padded[:, : mask.shape[1]] = ids * mask
    return {"input_ids": ids, "attention_mask": mask}, padded


def gradients(module, outcome):
    outcome.square().sum().backward()
    found = {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}
    module.zero_grad()
    return found


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lengths", [(3, 16, 5, 2, 7, 1, 4), (16, 16, 16), (2,), (1, 1, 1)])
def test_a_text_is_what_encode_text_makes_of_it_padded_to_the_context(lengths, training):
    model, _, encoder = towers()
    inputs, padded = texts(*lengths)
    expected = model.encode_text(padded)
    found = encoder.train(training)(inputs).features[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    wanted, learned = gradients(model, expected), gradients(encoder.trunk, found)
    assert learned.keys() <= wanted.keys() and "token_embedding.weight" in learned
    for name, gradient in learned.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-5)


def test_features_of_packed_texts_are_those_of_each_text_alone():
    from modules.encoders.open_clip import OpenClipTextEncoder

    encoder = OpenClipTextEncoder(config=CLIP).train()
    inputs, _ = texts(3, 16, 5, 2, 7)
    together = encoder(inputs)
    for row, count in enumerate([3, 16, 5, 2, 7]):
        alone = encoder({name: value[row : row + 1, :count] for name, value in inputs.items()})
        torch.testing.assert_close(together.features[row, :count], alone.features[0], rtol=1e-5, atol=1e-5)


def test_while_training_no_more_rows_go_through_the_blocks_than_real_tokens_fill():
    _, _, encoder = towers()
    seen = []
    encoder.trunk.transformer.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[:2]))
    inputs, _ = texts(*[4] * 32, longest=16)
    encoder.train()(inputs)
    encoder.eval()(inputs)
    assert [rows * tokens for rows, tokens in seen] == [128, 512]


@pytest.mark.parametrize(
    "text", [{"pool_type": "first"}, {"pool_type": "eos", "eos_id": 49407}, {"pool_type": "last"}]
)
def test_the_token_that_stands_for_the_text_is_the_towers_own_choice(text):
    model, _, encoder = towers(**text)
    inputs, padded = texts(3, 16, 5, 2)
    torch.testing.assert_close(
        encoder(inputs).features[:, 0], model.encode_text(padded), rtol=1e-5, atol=1e-5
    )


def test_a_text_without_tokens_leaves_the_others_as_they_are():
    _, _, encoder = towers()
    inputs, _ = texts(3, 9, 5)
    expected = encoder(inputs).features[1:]
    inputs["attention_mask"][0] = False
    found = encoder(inputs)
    torch.testing.assert_close(found.features[1:], expected, rtol=1e-5, atol=1e-5)
    assert found.mask.flatten().tolist() == [False, True, True]


def test_a_picture_is_what_encode_image_makes_of_it_though_one_token_alone_goes_through_the_last_block():
    from modules.encoders.open_clip_towers import ClassTokenBlock

    model, encoder, _ = towers()
    assert isinstance(encoder.trunk.transformer.resblocks[-1], ClassTokenBlock)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    expected = model.encode_image(encoder.normalised(pixels))
    found = encoder({"pixels": pixels}).features[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    wanted, learned = gradients(model.visual, expected), gradients(encoder.trunk, found)
    assert learned.keys() == wanted.keys()
    for name, gradient in learned.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-5)


def test_attention_of_short_sequences_in_bfloat16_is_the_same_by_the_kernel_that_learns_fast():
    from torch.nn.functional import scaled_dot_product_attention

    from modules.attention import quick_attention

    query, key, value = torch.randn(3, 2, 2, 9, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        expected = scaled_dot_product_attention(query, key, value)
        with quick_attention(query.device, 9):
            assert not torch.backends.cuda.flash_sdp_enabled()
            found = scaled_dot_product_attention(query, key, value)
        with torch.no_grad(), quick_attention(query.device, 9):
            assert torch.backends.cuda.flash_sdp_enabled()
        with quick_attention(query.device, 1500):
            assert torch.backends.cuda.flash_sdp_enabled()
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    with quick_attention(query.device, 9):
        assert torch.backends.cuda.flash_sdp_enabled()

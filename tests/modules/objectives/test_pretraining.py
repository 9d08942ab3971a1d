"""Pretraining objectives: what is hidden cannot be seen, only what was asked for is judged, and all of it trains."""

import copy

import pytest
import torch

from modules.objectives.causal_language import CausalLanguage
from modules.objectives.classification import Classification
from modules.objectives.contrastive_audio import ContrastiveAudio
from modules.objectives.masked_audio import MaskedAudio
from modules.objectives.masked_autoencoder import MaskedAutoencoder
from modules.objectives.masked_image import MaskedImage
from modules.objectives.masked_language import MaskedLanguage
from modules.objectives.masked_region import MaskedRegion, regions
from modules.tokens import Tokens


def objective_of(kind, encoder, request):
    return {
        "masked_autoencoder": lambda: MaskedAutoencoder(
            encoder, decoder_dim=16, decoder_layers=1, decoder_heads=2
        ),
        "masked_region": lambda: MaskedRegion(
            encoder, request.getfixturevalue("text_encoder"), dim=16, num_layers=1, num_heads=2
        ),
        "contrastive_audio": lambda: ContrastiveAudio(
            encoder, start_share=0.3, num_distractors=5, num_codes=4, dim=16
        ),
        "masked_language": lambda: MaskedLanguage(encoder, share=0.5),
        "masked_image": lambda: MaskedImage(encoder, share=0.5),
        "masked_audio": lambda: MaskedAudio(encoder, share=0.5),
        "causal_language": lambda: CausalLanguage(encoder),
        "classification": lambda: Classification(encoder, ["a", "b"]),
    }[kind]()


CASES = {
    "masked_language": ("text_encoder", "text_inputs"),
    "masked_image": ("image_encoder", "image_inputs"),
    "masked_audio": ("audio_encoder", "audio_inputs"),
    "masked_autoencoder": ("mae_encoder", "image_inputs"),
    "masked_region": ("image_encoder", "image_inputs"),
    "contrastive_audio": ("audio_encoder", "audio_inputs"),
    "causal_language": ("language_model", "text_inputs"),
    "classification": ("image_encoder", "image_inputs"),
}


MAE = {
    "model_type": "vit_mae",
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "decoder_hidden_size": 16,
    "decoder_intermediate_size": 64,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "mask_ratio": 0.6,
    "norm_pix_loss": True,
}


@pytest.fixture
def mae_encoder():
    from modules.encoders.vit_mae import MaskedAutoencoderViT

    return MaskedAutoencoderViT(config=MAE).eval()


@pytest.fixture(params=CASES)
def case(request):
    encoder, inputs = (request.getfixturevalue(name) for name in CASES[request.param])
    if request.param == "classification":
        inputs = {**inputs, "label": torch.tensor([0, 1, 1])}
    if request.param == "masked_region":
        inputs = {**inputs, **request.getfixturevalue("text_inputs")}
    return request.param, encoder, objective_of(request.param, encoder, request), inputs


def judge(encoder, objective, inputs):
    seen, target = objective.corrupt(inputs)
    return objective(encoder(seen), target)


def test_the_loss_is_finite_and_falls_when_trained_on(case):
    kind, encoder, objective, inputs = case
    torch.manual_seed(0)
    parameters = [p for p in (*encoder.parameters(), *objective.parameters()) if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    history = []
    for _ in range(150 if kind == "contrastive_audio" else 60):  # its codes are drawn at random
        losses, _ = judge(encoder, objective, inputs)
        assert next(iter(losses)) == kind
        history.append(losses[kind].item())
        optimizer.zero_grad()
        losses[kind].backward()
        optimizer.step()
    assert sum(history[-10:]) < 0.9 * sum(history[:10])


def test_ranks_hide_what_one_process_hides(case, monkeypatch):
    _, _, objective, inputs = case
    two = {name: tensor[:2] for name, tensor in inputs.items()}
    whole, _ = copy.deepcopy(objective).corrupt(two)
    for rank in range(2):
        monkeypatch.setattr("modules.objectives.draws.world", lambda rank=rank: (rank, 2))
        share, _ = copy.deepcopy(objective).corrupt(
            {name: tensor[rank : rank + 1] for name, tensor in two.items()}
        )
        for name, tensor in share.items():
            assert torch.equal(tensor, whole[name][rank : rank + 1]), name


def test_zero_rows_give_a_loss_of_zero_with_gradients(case):
    kind, encoder, objective, inputs = case
    losses, _ = judge(encoder, objective, {name: tensor[:0] for name, tensor in inputs.items()})
    assert losses[kind] == 0
    sum(losses.values()).backward()
    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    assert any(parameter.grad is not None for parameter in encoder.parameters())


def test_masked_language_equals_transformers_loss_on_the_same_masks(text_encoder, text_inputs):
    from transformers import BertConfig, BertForMaskedLM

    objective = MaskedLanguage(text_encoder, share=0.5)
    _, target = objective.corrupt(text_inputs)
    config = BertConfig(
        vocab_size=objective.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        layer_norm_eps=1e-5,
    )
    model = BertForMaskedLM(config).eval()
    head = model.cls.predictions
    objective.dense, objective.norm = head.transform.dense, head.transform.LayerNorm
    objective.decoder = head.decoder
    mask = text_inputs["attention_mask"]
    theirs = model(input_ids=text_inputs["input_ids"], attention_mask=mask, labels=target)
    features = model.bert(input_ids=text_inputs["input_ids"], attention_mask=mask).last_hidden_state
    losses, _ = objective(Tokens(features, mask), target)
    torch.testing.assert_close(losses["masked_language"], theirs.loss, rtol=1e-5, atol=1e-6)


def test_masked_language_refuses_an_encoder_that_pools_and_one_of_something_else(
    tokenizer_path, image_encoder
):
    from modules.encoders.huggingface import TextEncoder

    gpt2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}
    last = TextEncoder(config=gpt2, tokenizer=tokenizer_path, max_tokens=16, last_only=True)
    with pytest.raises(
        ValueError, match=r"gives 1 token\(s\) for 3, and masked language modelling .*last_only"
    ):
        MaskedLanguage(last)
    with pytest.raises(ValueError, match=r"needs an encoder of texts .*, ImageEncoder takes"):
        MaskedLanguage(image_encoder)


def test_masked_language_says_where_a_tokenizer_with_a_mask_comes_from(text_encoder):
    text_encoder.tokenizer_json = text_encoder.tokenizer_json.replace("[MASK]", "[VEIL]")
    with pytest.raises(
        ValueError, match=r"no \[MASK\] or <mask> token.*take the tokenizer\.json that prepare"
    ):
        MaskedLanguage(text_encoder)


def test_masked_language_hides_real_tokens_alone(text_encoder, text_inputs):
    objective = MaskedLanguage(text_encoder, share=1.0)
    _, target = objective.corrupt(text_inputs)
    assert ((target != -100) <= text_inputs["attention_mask"]).all()
    special = torch.isin(target, torch.tensor(objective.special_ids))
    assert not special.any()


def test_causal_language_equals_transformers_loss(language_model, text_inputs):
    labels = text_inputs["input_ids"].masked_fill(~text_inputs["attention_mask"], -100)
    theirs = language_model.model(
        input_ids=text_inputs["input_ids"], attention_mask=text_inputs["attention_mask"].long(), labels=labels
    ).loss
    losses, _ = judge(language_model, CausalLanguage(language_model), text_inputs)
    torch.testing.assert_close(losses["causal_language"], theirs, rtol=1e-5, atol=1e-6)


def test_hidden_sound_is_not_seen_and_is_what_is_asked_for(audio_encoder, audio_inputs):
    torch.manual_seed(1)
    objective = MaskedAudio(audio_encoder, share=0.5)
    seen, (spans, hidden) = objective.corrupt(audio_inputs)
    assert hidden.any()
    frames, mask = audio_encoder.log_mel(audio_inputs["waveform"], audio_inputs["lengths"])
    assert seen["masked"].shape == mask.shape
    assert not (seen["masked"] & ~mask).any()
    row, span = hidden.nonzero()[0].tolist()
    begin = span * audio_encoder.stride
    expected = frames[row, begin : begin + audio_encoder.stride].flatten()
    torch.testing.assert_close(spans[row, span], expected)


def test_a_language_model_objective_refuses_another_encoder(image_encoder):
    with pytest.raises(ValueError, match=r"needs modules\.language_model\.LanguageModel, not ImageEncoder"):
        CausalLanguage(image_encoder)


@pytest.mark.parametrize("objective", [MaskedAudio, ContrastiveAudio])
def test_hiding_frames_refuses_an_encoder_without_a_spectrogram(objective):
    from modules.encoders.waveform_cnn import WaveformCNN

    with pytest.raises(ValueError, match=r"WaveformCNN does not take: expected .*AudioEncoder"):
        objective(WaveformCNN(16, kernels=(10, 8), strides=(5, 4)))


def test_hiding_patches_refuses_an_encoder_that_would_show_them_or_has_none(image_encoder, text_encoder):
    from modules.encoders.frame_pooling import FramePooling
    from modules.encoders.image_tokenizer import ImageTokenizer

    blind = ImageTokenizer(16, patch_size=8, channels=16, levels=(5, 5, 5))
    for encoder in (blind, FramePooling(image_encoder)):
        for build in (MaskedImage, lambda encoder: MaskedRegion(encoder, text_encoder)):
            with pytest.raises(
                ValueError, match=rf"which {type(encoder).__name__} cannot: expected a Picture"
            ):
                build(encoder)


# ---- masked autoencoding


@pytest.mark.parametrize("normalise", [True, False])
def test_masked_autoencoder_equals_vit_maes_loss_on_the_same_noise(mae_encoder, image_inputs, normalise):
    from transformers import ViTMAEForPreTraining

    objective = MaskedAutoencoder(
        mae_encoder, decoder_dim=16, decoder_layers=1, decoder_heads=2, normalise=normalise
    )
    theirs = ViTMAEForPreTraining(mae_encoder.config).eval()
    theirs.config.norm_pix_loss = normalise
    theirs.vit.load_state_dict(mae_encoder.trunk.state_dict())
    theirs.decoder.load_state_dict(objective.decoder.state_dict())
    noise = torch.rand(3, 16)
    outcome = theirs(pixel_values=mae_encoder.normalised(image_inputs["pixels"]), noise=noise)

    tokens = mae_encoder({**image_inputs, "noise": noise})
    losses, _ = objective(tokens, objective.target(image_inputs["pixels"], noise))
    torch.testing.assert_close(losses["masked_autoencoder"], outcome.loss, rtol=1e-6, atol=0)
    parameters = ("decoder_embed.weight", "mask_token")
    ours_gradients = torch.autograd.grad(
        losses["masked_autoencoder"], [objective.decoder.get_parameter(name) for name in parameters]
    )
    theirs_gradients = torch.autograd.grad(
        outcome.loss, [theirs.decoder.get_parameter(name) for name in parameters]
    )
    torch.testing.assert_close(ours_gradients, theirs_gradients, rtol=1e-5, atol=1e-7)


def test_without_noise_an_encoder_of_mae_equals_a_vit_of_its_weights(mae_encoder, image_inputs):
    from transformers import ViTConfig, ViTModel

    sizes = ("image_size", "patch_size", "hidden_size", "intermediate_size")
    depths = ("num_hidden_layers", "num_attention_heads")
    vit = ViTModel(
        ViTConfig(**{name: MAE[name] for name in (*sizes, *depths)}), add_pooling_layer=False
    ).eval()
    vit.load_state_dict(mae_encoder.trunk.state_dict())
    patches = vit(mae_encoder.normalised(image_inputs["pixels"])).last_hidden_state[:, 1:]  # all, row by row
    tokens = mae_encoder(image_inputs)
    torch.testing.assert_close(tokens.features, patches)
    assert tokens.mask.all()
    assert mae_encoder.config.mask_ratio == 0.6, "what training hides is as it was"


def test_masked_autoencoding_refuses_another_encoder(image_encoder):
    from modules.encoders.vit_mae import MaskedAutoencoderViT

    with pytest.raises(ValueError, match="MaskedAutoencoderViT, not ImageEncoder"):
        MaskedAutoencoder(image_encoder)
    with pytest.raises(ValueError, match="for model_type vit_mae, this is vit"):
        MaskedAutoencoderViT(config={"model_type": "vit", "image_size": 16, "patch_size": 8})


# ---- masked region


def test_regions_are_rectangles_of_about_the_share():
    hidden = regions(torch.rand(400, 3), 8, 0.4)
    for region in hidden[:20]:
        rows, columns = region.any(1), region.any(0)
        assert torch.equal(region, rows.unsqueeze(1) & columns)
    assert hidden.float().mean().item() == pytest.approx(0.4, abs=0.05)
    assert regions(torch.rand(3, 3), 4, 1.0).flatten(1).any(1).all()


def test_what_is_hidden_is_drawn_from_the_text(image_encoder, text_encoder, text_inputs):
    """Two pictures of noise, all of it hidden: only two different texts can tell them apart."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    hidden = torch.ones(2, 4, dtype=torch.bool)
    outcome = {}
    for told, ids in (("apart", [[11, 12], [40, 41]]), ("alike", [[11, 12], [11, 12]])):
        objective = MaskedRegion(image_encoder, text_encoder, share=1.0, dim=32, num_layers=1, num_heads=2)
        text = {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(2, 2, dtype=torch.bool)}
        optimizer = torch.optim.Adam(objective.parameters(), lr=0.01)
        seen, (patches, _, _) = objective.corrupt({"pixels": pixels, **text})
        seen["masked"] = hidden
        for _ in range(120):
            loss = objective(image_encoder(seen), (patches, hidden, text))[0]["masked_region"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        outcome[told] = loss.item()
    assert outcome["apart"] < 0.1 < 0.4 < outcome["alike"]


def test_a_text_without_tokens_can_be_attended_to(image_encoder, text_encoder, image_inputs, text_inputs):
    objective = MaskedRegion(image_encoder, text_encoder, dim=16, num_layers=1, num_heads=2)
    nothing = {**text_inputs, "attention_mask": torch.zeros_like(text_inputs["attention_mask"])}
    losses, _ = judge(image_encoder, objective, {**image_inputs, **nothing})
    assert losses["masked_region"].isfinite()


def test_a_region_that_covers_nothing_is_refused(image_encoder, text_encoder):
    with pytest.raises(ValueError, match="share is 0"):
        MaskedRegion(image_encoder, text_encoder, share=0)

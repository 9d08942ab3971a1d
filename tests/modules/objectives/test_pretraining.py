"""Pretraining objectives: what is hidden cannot be seen, only what was asked for is judged, and all of it trains."""

import copy

import pytest
import torch

from modules.objectives.causal_language import CausalLanguage
from modules.objectives.classification import Classification
from modules.objectives.contrastive_audio import ContrastiveAudio, draw_distractors
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


# ---- contrastive masked audio


class Encoded(torch.nn.Module):
    """What an encoder made of sounds, in the place of wav2vec 2.0's own."""

    def __init__(self, context, features):
        super().__init__()
        self.context, self.features = context, features

    def forward(self, *_, **__):
        from transformers.modeling_outputs import Wav2Vec2BaseModelOutput

        return Wav2Vec2BaseModelOutput(last_hidden_state=self.context, extract_features=self.features)


@pytest.fixture
def pair_of_wav2vec2(audio_encoder, audio_inputs):
    """Return a function from an objective to its own losses and the library's outcome on the same tokens and draws."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

    def judge_both(objective, training):
        seen, (spans, hidden) = objective.corrupt(audio_inputs)
        tokens = audio_encoder.eval()(seen)
        config = Wav2Vec2Config(
            hidden_size=audio_encoder.dim,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            conv_dim=(spans.shape[2],),
            conv_stride=(1,),
            conv_kernel=(1,),
            num_feat_extract_layers=1,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            num_codevectors_per_group=objective.num_entries // 2,
            codevector_dim=16,
            proj_codevector_dim=16,
        )
        model = Wav2Vec2ForPreTraining(config).train(training)
        model.wav2vec2 = Encoded(tokens.features, objective.norm(spans))
        model.quantizer.load_state_dict(objective.quantizer.state_dict())
        model.project_q.load_state_dict(objective.project_codes.state_dict())
        model.project_hid.load_state_dict(objective.project_context.state_dict())

        count = objective.num_distractors
        luck = copy.deepcopy(objective.distractor_draws).uniform(len(hidden), hidden.shape[1] * count)
        drawn = draw_distractors(hidden, luck.float().unflatten(1, (-1, count)))
        positions = (
            hidden.flatten().nonzero().squeeze(1)
        )  # the library counts all tokens, not the hidden ones
        of_all = torch.zeros(*hidden.shape, count, dtype=torch.int64)
        of_all[hidden] = positions[drawn]
        outcome = model(audio_inputs["waveform"], mask_time_indices=hidden, sampled_negative_indices=of_all)
        losses, _ = objective.train(training)(tokens, (spans, hidden))
        return losses, outcome, (model, hidden, drawn)

    return judge_both


def test_contrast_and_diversity_equal_wav2vec2s_on_the_same_masks_and_distractors(
    audio_encoder, pair_of_wav2vec2
):
    objective = ContrastiveAudio(
        audio_encoder, start_share=0.5, num_distractors=6, num_codes=3, dim=16, diversity_weight=0.3
    )
    losses, outcome, (_, hidden, drawn) = pair_of_wav2vec2(objective, training=False)
    codes = outcome.projected_quantized_states[hidden]
    is_itself = (codes[drawn] == codes.unsqueeze(1)).all(2)
    assert is_itself.any() and not is_itself.all()  # few codes: some distractors are the code itself
    count = hidden.sum()  # ours are means over what is hidden, the library's are sums
    torch.testing.assert_close(count * losses["contrastive_audio"], outcome.contrastive_loss)
    torch.testing.assert_close(count * losses["code_diversity"], 0.3 * outcome.diversity_loss)


def test_diversity_and_its_gradient_equal_wav2vec2s_in_training(audio_encoder, pair_of_wav2vec2):
    objective = ContrastiveAudio(
        audio_encoder, start_share=0.5, num_distractors=6, num_codes=3, dim=16, diversity_weight=1.0
    )
    torch.nn.init.normal_(objective.quantizer.weight_proj.weight, std=0.1)  # no code is certain
    losses, outcome, (model, hidden, _) = pair_of_wav2vec2(objective, training=True)
    ours, theirs = hidden.sum() * losses["code_diversity"], outcome.diversity_loss
    torch.testing.assert_close(ours, theirs)
    (gradient,) = torch.autograd.grad(ours, objective.quantizer.weight_proj.weight)
    assert gradient.abs().max() > 1e-3
    (expected,) = torch.autograd.grad(theirs, model.quantizer.weight_proj.weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_diversity_is_the_share_of_codes_that_the_perplexity_leaves_unused(audio_encoder, audio_inputs):
    objective = ContrastiveAudio(audio_encoder, start_share=0.5, num_codes=4, dim=16)
    seen, target = objective.corrupt(audio_inputs)
    losses, scores = objective(audio_encoder(seen), target)
    expected = 0.1 * (8 - scores["code_perplexity"]) / 8
    torch.testing.assert_close(losses["code_diversity"], expected)


def test_diversity_is_no_mean_over_samples_and_says_so(audio_encoder, audio_inputs):
    """Two batches in turn are not one large one; without its weight they are."""
    torch.manual_seed(0)
    objective = ContrastiveAudio(audio_encoder, start_share=0.5, num_codes=4, dim=16).eval()
    _, (spans, hidden) = objective.corrupt(audio_inputs)
    tokens = audio_encoder(audio_inputs)

    def diversity(rows: slice) -> torch.Tensor:
        part = Tokens(tokens.features[rows], tokens.mask[rows])
        return objective(part, (spans[rows], hidden[rows]))[0]["code_diversity"]

    counts = hidden.sum(1).tolist()
    parts = (diversity(slice(0, 1)) * counts[0] + diversity(slice(1, None)) * sum(counts[1:])) / sum(counts)
    assert parts > diversity(slice(None))
    assert objective.compares_samples
    assert not ContrastiveAudio(audio_encoder, num_codes=4, dim=16, diversity_weight=0.0).compares_samples


def test_distractors_are_other_hidden_tokens_of_the_same_row():
    hidden = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 1, 0, 0, 0]]).bool()
    drawn = draw_distractors(hidden, torch.rand(4, 5, 200))
    row = hidden.nonzero()[:, 0]
    assert (row[drawn] == row.unsqueeze(1)).all()
    found = [sorted(set(each.tolist())) for each in drawn]
    assert found == [[1, 2], [0, 2], [0, 1], [3], [5], [4]]


def test_hidden_runs_are_of_the_length_asked_for_within_real_sound(audio_encoder, audio_inputs):
    objective = ContrastiveAudio(audio_encoder, start_share=0.1, run=3, num_codes=4, dim=16)
    _, (_, hidden) = objective.corrupt(audio_inputs)
    assert not hidden[2, 6:].any()  # 0.25 s are three tokens
    torch.manual_seed(3)
    longer = torch.zeros(1, 160000) + torch.randn(1, 160000)
    _, (_, hidden) = objective.corrupt({"waveform": longer, "lengths": torch.tensor([160000])})
    runs = "".join("x" if each else "." for each in hidden[0].tolist()).strip("x").split(".")
    lengths = [len(run) for run in runs if run]
    assert lengths and min(lengths) >= 3


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

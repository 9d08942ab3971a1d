"""Adapters: what trains, what is handed over, and what is refused."""

import pytest
import torch
import yaml

from modules import adapters, parts
from modules.card import tensors_of

LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
METHODS = {
    "lora": {"r": 4},
    "lora by rank-stabilised scale": {"peft_type": "LORA", "r": 4, "use_rslora": True},
    "dora": {"peft_type": "LORA", "r": 4, "use_dora": True},
    "pissa": {"peft_type": "LORA", "r": 4, "init_lora_weights": "pissa"},
    "ia3": {},
    "ln_tuning": {"target_modules": ["layernorm_before", "layernorm_after"]},
    "loha": {"r": 4},
    "lokr": {"r": 4},
    "oft": {"oft_block_size": 4},
    "hra": {"r": 4},
    "fourierft": {"n_frequency": 20},
    "c3a": {"block_size": 4},
    "miss": {"r": 4},
    "delora": {"r": 4},
}
pytestmark = pytest.mark.filterwarnings("ignore:Unsupported layer type")  # peft on LayerNorm, which it takes


def moved(part):
    """Change what trains, as training would."""
    for parameter in part.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return part.eval()


@pytest.mark.parametrize("method", METHODS)
def test_merged_weights_give_what_the_adapter_gave_and_have_the_names_of_the_plain_class(
    method, image_encoder, image_inputs
):
    names = list(tensors_of(image_encoder))
    config = {"peft_type": method.upper(), "target_modules": "all-linear", **METHODS[method]}
    before = image_encoder(image_inputs).features
    adapted = adapters.adapt(image_encoder, config)
    if method not in (
        "pissa",
        "fourierft",
        "c3a",
        "delora",
    ):  # these do not all begin at the base's own outputs
        torch.testing.assert_close(adapted(image_inputs).features, before, rtol=1e-5, atol=1e-5)
    moved(adapted)
    trained = adapted(image_inputs).features
    assert (trained - before).abs().max() > 1e-2
    plain = adapters.merged(adapted).eval()
    assert list(tensors_of(plain)) == names
    torch.testing.assert_close(plain(image_inputs).features, trained, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(adapted(image_inputs).features, trained, rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_every_weight_of_the_adapter_and_no_other(method, image_encoder, image_inputs):
    config = {"peft_type": method.upper(), "target_modules": "all-linear", **METHODS[method]}
    base = set(tensors_of(image_encoder))
    adapted = moved(adapters.adapt(image_encoder, config))
    adapted(image_inputs).features.square().sum().backward()
    for name, parameter in adapted.named_parameters():
        is_base = name in base or ".base_layer." in name
        assert parameter.requires_grad != is_base, name
        assert (parameter.grad is None) == is_base, name
        assert is_base or parameter.grad.any(), name


@pytest.mark.parametrize("method", METHODS)
def test_an_unmerged_part_holds_the_adapter_alone_and_comes_back_on_its_base(
    method, image_encoder, image_inputs, tmp_path
):
    base = parts.save(image_encoder, tmp_path / "encoders.image")
    config = {"peft_type": method.upper(), "target_modules": "all-linear", **METHODS[method]}
    adapted = moved(adapters.adapt(parts.load(str(base)), config, merge=False))
    expected = adapted(image_inputs).features
    folder = parts.save(adapted, tmp_path / "tuned")
    card = parts.read_card(folder)
    assert card["adapter"]["state"] == "unmerged"
    assert card["adapter"]["base"] == {
        "path": str(base),
        "fingerprint": parts.fingerprint(parts.read_card(base)),
    }
    if method != "pissa":  # which takes what it holds out of the base
        assert not set(card["tensors"]) & {name for name in tensors_of(adapted) if ".base_layer." in name}

    again = adapters.load(str(folder)).eval()
    torch.testing.assert_close(again(image_inputs).features, expected, rtol=0, atol=0)
    trains = {name for name, value in adapted.named_parameters() if value.requires_grad}
    assert {name for name, value in again.named_parameters() if value.requires_grad} == trains
    plain = adapters.merge(str(folder)).eval()
    torch.testing.assert_close(plain(image_inputs).features, expected, rtol=1e-5, atol=1e-5)
    assert parts.read_card(parts.save(again, tmp_path / "more"))["adapter"]["base"]["path"] == str(base)


def test_a_merged_part_says_so_and_loads_like_any_other(image_encoder, image_inputs, tmp_path):
    base = parts.save(image_encoder, tmp_path / "encoders.image")
    adapted = moved(adapters.adapt(parts.load(str(base)), LORA))
    card = parts.read_card(parts.save(adapted, tmp_path / "tuned"))
    assert (card["adapter"]["state"], card["adapter"]["config"]) == ("merged", LORA)
    assert card["adapter"]["base"]["path"] == str(base)
    assert card["tensors"].keys() == parts.read_card(base)["tensors"].keys()
    again = parts.load(str(tmp_path / "tuned")).eval()
    torch.testing.assert_close(
        again(image_inputs).features, adapted(image_inputs).features, rtol=1e-5, atol=1e-5
    )


def test_text_sound_and_language_models_take_adapters(
    text_encoder, text_inputs, audio_encoder, audio_inputs, language_model
):
    for part, inputs in (
        (text_encoder, text_inputs),
        (audio_encoder, audio_inputs),
        (language_model, text_inputs),
    ):
        adapted = moved(adapters.adapt(part, {**LORA, "target_modules": "all-linear"}))
        expected = adapted(inputs).features
        found = adapters.merged(adapted).eval()(inputs).features
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_towers_of_open_clip_are_adapted_through_their_attention_as_a_whole():
    from families import CLIP

    from modules.encoders.open_clip import OpenClipImageEncoder

    encoder = OpenClipImageEncoder(config=CLIP)
    inputs = {
        "pixels": torch.randint(0, 256, (2, 3, encoder.image_size, encoder.image_size), dtype=torch.uint8)
    }
    with pytest.raises(ValueError, match=r"reads its layers' weights .* or target trunk\..*\.attn itself"):
        adapters.adapt(encoder, {**LORA, "target_modules": ["out_proj"]})
    before = encoder.eval()(inputs).features
    adapted = moved(adapters.adapt(encoder, {**LORA, "target_modules": ["attn", "c_fc"]}))
    expected = adapted(inputs).features
    assert (expected - before).abs().max() > 1e-2
    torch.testing.assert_close(
        adapters.merged(adapted).eval()(inputs).features, expected, rtol=1e-5, atol=1e-5
    )


def test_all_linear_leaves_the_output_layer_of_a_language_model_alone(language_model):
    adapted = adapters.adapt(language_model, {**LORA, "target_modules": "all-linear"})
    assert type(adapted.head) is torch.nn.Linear
    assert type(adapted.model.model.layers[0].mlp.up_proj) is not torch.nn.Linear


def test_the_weights_keep_their_precision(language_model, tmp_path):
    adapted = moved(adapters.adapt(language_model.to(torch.bfloat16), LORA))
    folder = parts.save(adapted, tmp_path / "language_model")
    assert {about["dtype"] for about in parts.read_card(folder)["tensors"].values()} == {"bfloat16"}


def test_what_was_freed_beside_an_unmerged_adapter_goes_with_it(image_encoder, image_inputs, tmp_path):
    base = parts.save(image_encoder, tmp_path / "encoders.image")
    adapted = adapters.adapt(parts.load(str(base)), LORA, merge=False)
    adapted.trunk.layers[1].layernorm_after.requires_grad_(True)
    expected = moved(adapted)(image_inputs).features
    folder = parts.save(adapted, tmp_path / "tuned")
    names = parts.read_card(folder)["tensors"].keys()
    assert {name for name in names if "lora_" not in name} == {
        f"trunk.layers.1.layernorm_after.{kind}" for kind in ("weight", "bias")
    }
    again = adapters.merge(str(folder)).eval()
    torch.testing.assert_close(again(image_inputs).features, expected, rtol=1e-5, atol=1e-5)


# ---- refused


@pytest.fixture
def tuned(image_encoder, tmp_path):
    """An un-merged part, in `tuned`, on the part in `encoders.image`."""
    base = parts.save(image_encoder, tmp_path / "encoders.image")
    return parts.save(moved(adapters.adapt(parts.load(str(base)), LORA, merge=False)), tmp_path / "tuned")


def test_an_unmerged_part_is_no_whole_one_and_the_other_way_round(tuned):
    for read in (parts.load, parts.untrained):
        with pytest.raises(
            parts.PartError, match=r"not merged into its base.*modules.adapters.merge.*stages.merge"
        ):
            read(str(tuned))
    with pytest.raises(parts.PartError, match="holds whole weights and no adapter"):
        adapters.load(str(tuned.with_name("encoders.image")))


def test_an_adapter_of_another_base_is_refused_and_one_that_has_moved_is_found(
    tuned, image_encoder, image_inputs
):
    expected = adapters.load(str(tuned)).eval()(image_inputs).features
    here, there = tuned.with_name("encoders.image"), tuned.with_name("moved")
    here.rename(there)
    with pytest.raises(parts.PartError, match=r"cannot be loaded \(no part at .*say `base`"):
        adapters.load(str(tuned))
    found = adapters.load(str(tuned), base=str(there)).eval()(image_inputs).features
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    parts.save(moved(image_encoder.requires_grad_(True)), here)
    with pytest.raises(parts.PartError, match=r"was trained on .* is another part .*name the very base"):
        adapters.load(str(tuned))


def test_a_rank_that_is_not_the_weights_is_refused_by_the_tensor(tuned):
    card = yaml.safe_load((tuned / parts.CARD).read_text())
    card["adapter"]["config"]["r"] = 2
    (tuned / parts.CARD).write_text(yaml.safe_dump(card))
    with pytest.raises(
        parts.PartError, match=r"'.*lora_A.default.weight' is \[4, 16\], the class needs \[2, 16\]"
    ):
        adapters.load(str(tuned))


def test_a_machine_without_peft_is_told_what_to_install(image_encoder, monkeypatch):
    monkeypatch.setattr("modules.adapters.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"peft is not installed; run: pip install 'trivium\[adapters\]'"):
        adapters.adapt(image_encoder, LORA)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": None}, "its card says no path and fingerprint of the adapter's base; write the part again"),
        (
            {"base": {"path": 3, "fingerprint": "x"}},
            "its card says no path and fingerprint of the adapter's base",
        ),
        ({"config": "LORA"}, "its card says no config of the adapter; write the part again"),
        (
            {"config": {"peft_type": "LORRA"}},
            r"the adapter of its card cannot be built \(.*expected one of LORA",
        ),
        ({"config": {**LORA, "target_modules": ["k_proj"]}}, r"missing: .*k_proj.*; not known: .*q_proj"),
    ],
)
def test_a_forged_card_of_an_adapter_is_refused(changes, message, tuned):
    card = yaml.safe_load((tuned / parts.CARD).read_text())
    card["adapter"].update(changes)
    (tuned / parts.CARD).write_text(yaml.safe_dump(card))
    with pytest.raises(parts.PartError, match=message):
        adapters.load(str(tuned))


def test_an_adapter_over_an_adapter_is_refused(tuned, image_encoder):
    for part in (adapters.load(str(tuned)), adapters.adapt(image_encoder, LORA)):
        with pytest.raises(
            parts.PartError, match="an adapter over an adapter is not supported; merge the first one"
        ):
            adapters.adapt(part, LORA)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"target_modules": ["q_porj"]},
            r"target 'q_porj' matches no module of ImageEncoder; did you mean .*q_proj",
        ),
        ({"target_modules": ["q_proj", "w_proj"]}, "the target 'w_proj' matches no module"),
        ({"target_modules": r"trunk\.layer\..*"}, "matches no module"),
        ({"target_modules": ["trunk"]}, r"peft cannot put LORA on \['trunk'\] of ImageEncoder"),
        (
            {"target_modules": None},
            "target_modules is missing: name modules of ImageEncoder, such as .*q_proj",
        ),
        ({"peft_type": "LORRA"}, "peft_type is 'LORRA', expected one of LORA, IA3"),
        ({"peft_type": "ADALORA"}, "peft_type is 'ADALORA', expected one of"),
        ({"rank": 4}, "LORA of peft knows no rank; did you mean .*r"),
        ({"r": 0}, "LORA"),
        (
            {"modules_to_save": ["trunk"]},
            "modules_to_save has no effect here; free them by name with lr_factors",
        ),
    ],
)
def test_a_config_that_cannot_work_is_refused(changes, message, image_encoder):
    with pytest.raises(ValueError, match=message):
        adapters.adapt(image_encoder, {**LORA, **changes})


def test_a_weight_that_two_layers_share_takes_no_adapter(language_model):
    language_model.model.config.tie_word_embeddings = True
    language_model.model.tie_weights()
    with pytest.raises(ValueError, match="names a weight that is shared"):
        adapters.adapt(language_model, {**LORA, "target_modules": ["embed_tokens"]})


def test_unmerged_needs_a_base_that_lies_somewhere(image_encoder):
    with pytest.raises(parts.PartError, match="was not loaded from a part that the adapter could refer to"):
        adapters.adapt(image_encoder, LORA, merge=False)


def test_an_adapter_in_a_part_of_a_part_is_refused_and_one_around_it_reaches_inside(image_encoder, tmp_path):
    from modules.encoders.frame_pooling import FramePooling

    pooling = FramePooling(image_encoder)
    adapters.adapt(image_encoder, LORA)
    with pytest.raises(parts.PartError, match=r"put modules.adapters.adapt around the FramePooling instead"):
        parts.describe(pooling)
    around = adapters.adapt(FramePooling(adapters.merged(image_encoder)), LORA)
    assert parts.load(str(parts.save(around, tmp_path / "encoders.video")))


def test_an_encoder_that_only_hands_on_cached_features_takes_no_adapter(image_encoder, tmp_path):
    from modules.encoders.cached import CachedEncoder

    cached = CachedEncoder(str(parts.save(image_encoder, tmp_path / "encoders.image")))
    with pytest.raises(parts.PartError, match="stands in for an encoder that does not run"):
        adapters.adapt(cached, LORA)


def test_an_adapter_of_peft_is_no_pretrained_model(image_encoder, tmp_path):
    from peft import LoraConfig, get_peft_model

    from modules.encoders.huggingface import ImageEncoder

    image_encoder.trunk.save_pretrained(tmp_path)
    get_peft_model(image_encoder.trunk, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds an adapter of peft .*expected a whole model: merge it"):
        ImageEncoder(str(tmp_path), mean=(0.5,) * 3, std=(0.5,) * 3)

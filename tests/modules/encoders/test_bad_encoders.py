"""What encoders refuse, with what was found, what was expected and what to do."""

import pytest
import torch
from families import CLIP, SIZES, SOUNDS, TIMESFORMER, save_image, save_text, sound_inputs

from modules import parts

VIT = {"model_type": "vit", **SIZES, "image_size": 32, "patch_size": 8}


def test_a_name_and_a_config_or_neither_are_refused(tokenizer_path):
    from modules.encoders.huggingface import ImageEncoder, TextEncoder
    from modules.encoders.open_clip import OpenClipImageEncoder
    from modules.language_model import LanguageModel

    for build in (
        ImageEncoder,
        lambda: TextEncoder(tokenizer=tokenizer_path),
        lambda: LanguageModel(tokenizer=tokenizer_path),
        OpenClipImageEncoder,
    ):
        with pytest.raises(ValueError, match="neither of name_or_path and config given"):
            build()
    with pytest.raises(ValueError, match="both of name_or_path and config given"):
        ImageEncoder("somewhere", config=VIT)


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(tokenizer_path):
    from modules.encoders.huggingface import TextEncoder
    from modules.encoders.open_clip import OpenClipTextEncoder

    with pytest.raises(ValueError, match=r"the tokenizer has \d+ tokens, the embedding of BertModel 20"):
        TextEncoder(config={"model_type": "bert", **SIZES, "vocab_size": 20}, tokenizer=tokenizer_path)
    config = {**CLIP, "text_cfg": {**CLIP["text_cfg"], "vocab_size": 100}}
    with pytest.raises(
        ValueError, match="the tokenizer has 49408 tokens, the embedding of the text tower 100"
    ):
        OpenClipTextEncoder(config=config)


def test_longer_texts_than_the_model_has_positions_for_are_refused(tokenizer_path, tmp_path):
    from modules.encoders.huggingface import TextEncoder

    folder = save_text("gpt2", tmp_path / "gpt2", tokenizer_path)
    with pytest.raises(ValueError, match="max_tokens is 129, GPT2Model has 128 positions"):
        TextEncoder(str(folder), max_tokens=129)


def test_positions_that_begin_behind_the_paddings_are_fewer_than_the_table_has(tokenizer_path):
    from modules.encoders.huggingface import TextEncoder

    roberta = {
        "model_type": "roberta",
        **SIZES,
        "max_position_embeddings": 12,
        "vocab_size": 300,
        "pad_token_id": 1,
    }
    with pytest.raises(ValueError, match="max_tokens is 11, RobertaModel has 10 positions: lower max_tokens"):
        TextEncoder(config=roberta, tokenizer=tokenizer_path, max_tokens=11)
    encoder = TextEncoder(config=roberta, tokenizer=tokenizer_path, max_tokens=10)
    ids = torch.full((1, 10), 5)
    assert encoder({"input_ids": ids, "attention_mask": ids > 0}).mask.all()


def test_models_that_do_not_take_a_text_alone_are_refused(tokenizer_path):
    from modules.encoders.huggingface import TextEncoder

    t5 = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    with pytest.raises(ValueError, match=r"T5Model is an encoder with a decoder.*such as bert"):
        TextEncoder(config=t5, tokenizer=tokenizer_path)
    resnet = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1]}
    for config, name in ((VIT, "ViTModel"), (resnet, "ResNetModel")):
        with pytest.raises(ValueError, match=f"{name} takes no ids of text: expected a text model"):
            TextEncoder(config=config, tokenizer=tokenizer_path)


def test_another_picture_size_than_the_models_is_refused():
    from modules.encoders.huggingface import ImageEncoder
    from modules.encoders.timm import TimmEncoder

    with pytest.raises(ValueError, match="ViTModel does not take pictures of 64 × 64 pixels"):
        ImageEncoder(config=VIT, image_size=64)
    with pytest.raises(ValueError, match="VisionTransformer does not take pictures of 64 × 64 pixels"):
        arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
        TimmEncoder("vit_tiny_patch16_224", pretrained=False, model_args=arguments, image_size=64)
    for size in (32, [32, 32]):
        built = TimmEncoder(
            "vit_tiny_patch16_224", pretrained=False, model_args={**arguments, "img_size": size}
        )
        assert built.image_size == 32 and built.grid == 4
    with pytest.raises(ValueError, match="nothing says the image_size of ResNetModel"):
        ImageEncoder(config={"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1]})


def test_a_pretrained_model_without_settings_is_refused_unless_they_are_given(tmp_path):
    from modules.encoders.huggingface import ImageEncoder

    folder = save_image("vit", tmp_path / "vit")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="give mean and std"):
        ImageEncoder(str(folder))
    assert ImageEncoder(str(folder), mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2)).image_size == 32


def test_a_timm_model_that_is_not_there_or_gives_no_features_is_refused(tmp_path):
    import timm
    from timm.models import register_model

    from modules.encoders.timm import TimmEncoder

    class Classifier(torch.nn.Module):
        def __init__(self, has_features: bool) -> None:
            super().__init__()
            self.pretrained_cfg = {"architecture": "x", "input_size": (3, 32, 32)}
            self.num_features, self.layer = 7, torch.nn.Linear(3, 7)
            if has_features:
                self.forward_features = lambda pixels: self.layer(pixels.mean((2, 3)))

    def classifier_without_features(pretrained=False, **options):
        return Classifier(False)

    def classifier_of_vectors(pretrained=False, **options):
        return Classifier(True)

    for function in (classifier_without_features, classifier_of_vectors):
        function.__module__ = __name__
        if not timm.is_model(function.__name__):
            register_model(function)
    with pytest.raises(ValueError, match="has no forward_features: it gives no tokens"):
        TimmEncoder("classifier_without_features", pretrained=False)
    with pytest.raises(ValueError, match=r"forward_features gives \(1, 7\), expected a map or tokens"):
        TimmEncoder("classifier_of_vectors", pretrained=False)
    with pytest.raises(ValueError, match="timm gives no model resnet99"):
        TimmEncoder("resnet99", pretrained=False)
    with pytest.raises(FileNotFoundError, match=r"no .*config.json"):
        TimmEncoder(str(tmp_path))


def test_open_clips_names_need_weights_and_towers_without_patches_are_pooled():
    from modules.encoders.open_clip import OpenClipImageEncoder

    with pytest.raises(ValueError, match="open_clip has no model ViT-Q-32"):
        OpenClipImageEncoder("ViT-Q-32", pretrained="openai")
    with pytest.raises(ValueError, match=r"which weights of ViT-B-32: give `pretrained`, one of .*laion2b"):
        OpenClipImageEncoder("ViT-B-32")
    with pytest.raises(ValueError, match="use ViT-B-32-quickgelu"):
        OpenClipImageEncoder("ViT-B-32", pretrained="openai")
    resnet = {"embed_dim": 12, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}}
    with pytest.raises(ValueError, match="ModifiedResNet of open_clip gives no patches: set pooled"):
        OpenClipImageEncoder(config=resnet)
    assert OpenClipImageEncoder(config=resnet, pooled=True).dim == 12


def test_models_of_another_kind_are_refused():
    from modules.encoders.audio_spectrogram_transformer import AudioSpectrogramTransformer
    from modules.encoders.timesformer import TimeSformerEncoder
    from modules.encoders.wav2vec import Wav2VecEncoder
    from modules.encoders.whisper import WhisperEncoder

    for encoder, message in (
        (AudioSpectrogramTransformer, "this is vit"),
        (TimeSformerEncoder, "this is vit"),
        (Wav2VecEncoder, "ViTModel does not turn a waveform into frames"),
        (WhisperEncoder, "this is vit"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder(config=VIT)
    joint = {"model_type": "timesformer", **TIMESFORMER, "attention_type": "joint_space_time"}
    with pytest.raises(ValueError, match="this is timesformer with joint_space_time"):
        TimeSformerEncoder(config=joint)


def test_sound_and_clips_of_another_length_than_the_models_are_refused():
    from modules.encoders.timesformer import TimeSformerEncoder
    from modules.encoders.whisper import WhisperEncoder

    whisper = {"model_type": "whisper", **SOUNDS["whisper"]}
    with pytest.raises(ValueError, match=r"max_seconds is 2.0, the model takes 1.0"):
        WhisperEncoder(config=whisper, max_seconds=2.0)
    with pytest.raises(ValueError, match="sound of 16001 samples, this Whisper takes 16000"):
        WhisperEncoder(config=whisper)({"waveform": torch.zeros(1, 16001), "lengths": torch.tensor([16001])})
    clips = {"pixels": torch.zeros(1, 3, 3, 32, 32, dtype=torch.uint8), "mask": torch.ones(1, 3).bool()}
    with pytest.raises(ValueError, match="clips of 3 frames: this TimeSformer takes 4"):
        TimeSformerEncoder(config={"model_type": "timesformer", **TIMESFORMER})(clips)


def test_frames_are_pooled_by_encoders_of_pictures_only_and_in_ways_that_are_known(
    audio_encoder, image_encoder
):
    from modules.encoders.frame_pooling import FramePooling

    with pytest.raises(ValueError, match="frames are pictures, and AudioEncoder takes"):
        FramePooling(audio_encoder)
    with pytest.raises(ValueError, match="pooling is 'max': expected one of mean, attention"):
        FramePooling(image_encoder, pooling="max")


def test_a_part_within_a_part_may_not_name_a_class_that_is_not_allowed(image_encoder, tmp_path):
    from modules.encoders.frame_pooling import FramePooling

    folder = parts.save(FramePooling(image_encoder), tmp_path / "part")
    card = folder / "card.yaml"
    card.write_text(card.read_text().replace("modules.encoders.huggingface.ImageEncoder", "os.path.Thing"))
    with pytest.raises(parts.PartError, match=r"'os.path.Thing', which is not of modules"):
        parts.load(str(folder))


def test_training_is_the_same_on_every_rank_and_run():
    from modules.encoders.wav2vec import Wav2VecEncoder

    dropout = dict.fromkeys(
        ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0
    )
    config = {
        "model_type": "wav2vec2",
        **SOUNDS["wav2vec2"],
        **dropout,
        "layerdrop": 0.9,
        "mask_time_prob": 0.9,
    }
    encoder = Wav2VecEncoder(config=config).train()
    first, second = encoder(sound_inputs()).features, encoder(sound_inputs()).features
    torch.testing.assert_close(first, second, atol=0, rtol=0)

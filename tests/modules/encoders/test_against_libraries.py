"""What encoders give is what the libraries give for the same model, fed by the libraries' own processors."""

import pytest
import torch
from families import (
    CLIP,
    IMAGES,
    SOUNDS,
    TEXTS,
    inputs_of,
    save_clip,
    save_image,
    save_sound,
    save_text,
    save_timm,
    save_video,
    sound_extractor,
    sound_inputs,
)

TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.mark.parametrize("kind", TEXTS)
def test_text_models_give_what_transformers_gives_for_each_text_alone(kind, tokenizer_path, tmp_path):
    from transformers import AutoModel

    from modules.encoders.huggingface import TextEncoder

    folder = save_text(kind, tmp_path / kind, tokenizer_path)
    model, inputs = AutoModel.from_pretrained(folder).eval(), inputs_of("text")
    tokens = TextEncoder(str(folder)).eval()(inputs)
    last = TextEncoder(str(folder), last_only=True).eval()(inputs)
    for row, count in enumerate(inputs["attention_mask"].sum(1).tolist()):
        with torch.no_grad():
            expected = model(inputs["input_ids"][row : row + 1, :count]).last_hidden_state[0]
        torch.testing.assert_close(tokens.features[row][tokens.mask[row]], expected, **TOLERANCE)
        torch.testing.assert_close(last.features[row, 0], expected[-1], **TOLERANCE)


@pytest.mark.parametrize("kind", IMAGES)
def test_image_models_give_what_transformers_gives_behind_its_own_processor(kind, tmp_path):
    from transformers import AutoImageProcessor, AutoModel

    from modules.encoders.huggingface import ImageEncoder

    folder = save_image(kind, tmp_path / kind)
    processor, model = AutoImageProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    pixels = inputs_of("image")["pixels"]
    kept = {"do_resize": False, "do_center_crop": False} if kind == "mobilevit" else {"do_resize": False}
    with torch.no_grad():
        expected = model(**processor(list(pixels), return_tensors="pt", **kept)).last_hidden_state
        tokens = ImageEncoder(str(folder)).eval()({"pixels": pixels})
    expected = (
        expected.flatten(2).transpose(1, 2)
        if expected.ndim == 4
        else expected[:, kind in ("vit", "dinov2") :]
    )
    torch.testing.assert_close(tokens.features, expected, **TOLERANCE)


@pytest.mark.parametrize("kind", SOUNDS)
def test_sound_models_give_what_transformers_gives_for_each_sound_alone(kind, tmp_path):
    from transformers import AutoModel

    from modules.encoders.audio_spectrogram_transformer import AudioSpectrogramTransformer
    from modules.encoders.wav2vec import Wav2VecEncoder
    from modules.encoders.whisper import WhisperEncoder

    classes = {"whisper": WhisperEncoder, "audio-spectrogram-transformer": AudioSpectrogramTransformer}
    folder, inputs = save_sound(kind, tmp_path / kind), sound_inputs()
    model, extractor = AutoModel.from_pretrained(folder).eval(), sound_extractor(kind)
    with torch.no_grad():
        tokens = classes.get(kind, Wav2VecEncoder)(str(folder)).eval()(inputs)
        for row, length in enumerate(inputs["lengths"].tolist()):
            sound = inputs["waveform"][row, :length].numpy()
            given = extractor(sound, sampling_rate=16000, return_tensors="pt")
            if kind == "whisper":
                expected = model.encoder(given["input_features"]).last_hidden_state[0, : tokens.mask.shape[1]]
            elif kind == "audio-spectrogram-transformer":
                expected = model(given["input_values"]).last_hidden_state[0, 2:]  # band by band
                expected = expected.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
            else:
                expected = model(given["input_values"]).last_hidden_state[0]
                assert len(expected) == tokens.mask[row].sum()
                expected = torch.nn.functional.pad(expected, (0, 0, 0, tokens.mask.shape[1] - len(expected)))
            mask = tokens.mask[row]
            torch.testing.assert_close(tokens.features[row][mask], expected[mask], atol=1e-4, rtol=1e-3)


def test_fewer_layers_give_what_the_whole_model_has_there(tmp_path):
    from transformers import AutoModel

    from modules.encoders.wav2vec import Wav2VecEncoder, standardised

    folder, inputs = save_sound("hubert", tmp_path / "hubert"), sound_inputs()
    encoder = Wav2VecEncoder(str(folder), num_layers=1).eval()
    whole = AutoModel.from_pretrained(folder).eval()
    sound = standardised(inputs["waveform"], inputs["lengths"])[:1]
    with torch.no_grad():
        expected = whole(sound, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(encoder(inputs).features[:1], expected, **TOLERANCE)


def test_timesformer_gives_what_transformers_gives_where_no_frame_is_masked(tmp_path):
    from transformers import AutoModel

    from modules.encoders.timesformer import TimeSformerEncoder

    folder, inputs = save_video(tmp_path / "video"), inputs_of("video")
    encoder = TimeSformerEncoder(str(folder)).eval()
    inputs["mask"] = torch.ones(3, 4, dtype=torch.bool)
    pixels = (inputs["pixels"].float() / 255 - encoder.mean) / encoder.std
    assert encoder.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folder).eval()(pixels).last_hidden_state[:, 1:]
    by_frame = (
        expected.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)
    )  # the library has each patch through time
    torch.testing.assert_close(encoder(inputs).features, by_frame, **TOLERANCE)


def test_frames_are_pooled_by_the_encoder_of_pictures_and_the_order_of_frames_is_kept(tmp_path):
    from modules.encoders.frame_pooling import FramePooling
    from modules.encoders.huggingface import ImageEncoder

    image = ImageEncoder(str(save_image("vit", tmp_path / "vit"))).eval()
    inputs = inputs_of("video")
    tokens = FramePooling(image, num_frames=4)(inputs)
    for row, frame in ((0, 3), (1, 1), (2, 0)):
        alone = image({"pixels": inputs["pixels"][row, frame : frame + 1]}).features.mean(1)[0]
        torch.testing.assert_close(tokens.features[row, frame], alone, **TOLERANCE)
    assert not tokens.features[~tokens.mask].any()


@pytest.mark.parametrize("kind", ["resnet10t", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_timm_models_give_their_features_behind_their_own_normalisation(kind, tmp_path):
    import timm

    from modules.encoders.timm import TimmEncoder

    folder = save_timm(kind, tmp_path / kind)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    settings, pixels = timm.data.resolve_model_data_config(model), inputs_of("image")["pixels"]
    mean, std = (torch.tensor(settings[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = model.forward_features((pixels / 255 - mean) / std)
    if kind.startswith("resnet"):
        expected = expected.permute(0, 2, 3, 1)
    expected = expected[:, 1:] if kind.startswith("vit") else expected.flatten(1, 2)
    tokens = TimmEncoder(str(folder)).eval()({"pixels": pixels})
    torch.testing.assert_close(tokens.features, expected, **TOLERANCE)


def test_open_clips_towers_give_what_encode_image_and_encode_text_give(tmp_path):
    import open_clip

    from modules.encoders.open_clip import OpenClipImageEncoder, OpenClipTextEncoder

    model = save_clip(tmp_path / "clip")
    image = OpenClipImageEncoder(str(tmp_path / "clip"), pooled=True).eval()
    text = OpenClipTextEncoder(str(tmp_path / "clip"), pooled=True).eval()
    assert image.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    pixels, captions = inputs_of("image")["pixels"], ["a red seven", "two blue fives, side by side", "no"]
    padded = open_clip.SimpleTokenizer(context_length=CLIP["text_cfg"]["context_length"])(captions)
    from datamodules.modalities.text import Text

    inputs = Text(**text.input_config["init_args"]).collate(captions)
    assert inputs["input_ids"].shape[1] < padded.shape[1]
    with torch.no_grad():
        expected = model.encode_image((pixels / 255 - image.mean) / image.std)
        torch.testing.assert_close(image({"pixels": pixels}).features[:, 0], expected, **TOLERANCE)
        torch.testing.assert_close(text(inputs).features[:, 0], model.encode_text(padded), **TOLERANCE)
        whole = OpenClipTextEncoder(str(tmp_path / "clip")).eval()(inputs)
    ends = whole.features[torch.arange(3), whole.mask.sum(1) - 1]
    torch.testing.assert_close(ends @ model.text_projection, model.encode_text(padded), **TOLERANCE)


def test_a_text_tower_that_looks_both_ways_sees_the_padding_that_it_was_trained_with():
    from modules.encoders.open_clip import OpenClipTextEncoder

    text = {**CLIP["text_cfg"], "no_causal_mask": True, "pool_type": "last", "pad_id": 1}
    encoder = OpenClipTextEncoder(config={**CLIP, "text_cfg": text}, pooled=True).eval()
    inputs = inputs_of("text")
    padded = torch.ones(3, 16, dtype=torch.long)
    padded[:, :7] = torch.where(inputs["attention_mask"], inputs["input_ids"], 1)
    with torch.no_grad():
        torch.testing.assert_close(encoder(inputs).features[:, 0], encoder.trunk(padded), **TOLERANCE)

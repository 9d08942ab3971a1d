"""Modalities: awkward media come out right, and what is no medium is a bad sample with a reason."""

import io
import json
import pickle

import numpy as np
import pytest
import soundfile
from PIL import Image as Pillow
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from datamodules.modalities.audio import Audio
from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.conversation import Conversation
from datamodules.modalities.image import Image
from datamodules.modalities.label import Label
from datamodules.modalities.text import Text
from datamodules.preparation.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["a red seven left of a blue two"] * 3, vocab_size=270)


def encoded(picture, format="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def sound(waveform, rate=16000, format="WAV", subtype=None):
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, format=format, subtype=subtype)
    return buffer.getvalue()


# ---- image


def test_a_picture_of_the_right_size_is_not_touched():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert (Image(16, 16).decode(encoded(Pillow.fromarray(pixels)), "png") == pixels).all()


def test_sixteen_bits_are_scaled_not_clipped():
    levels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    decoded = Image(16, 16).decode(encoded(Pillow.fromarray(levels)), "png")
    assert np.abs(decoded[..., 0].astype(int) - np.arange(256).reshape(16, 16)).max() <= 1


def test_transparency_is_laid_on_white():
    hidden = np.zeros((16, 16, 4), dtype=np.uint8)
    assert (Image(16, 16).decode(encoded(Pillow.fromarray(hidden)), "png") == 255).all()


def test_the_orientation_of_the_camera_is_applied():
    picture = Pillow.new("RGB", (16, 16))
    picture.paste((255, 0, 0), (0, 0, 16, 4))  # red on top as stored
    exif = Pillow.Exif()
    exif[0x0112] = 3  # to be turned upside down
    decoded = Image(16, 16).decode(encoded(picture, exif=exif), "png")
    assert decoded[-1, 8, 0] == 255
    assert decoded[0, 8, 0] == 0


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1"])
def test_every_colour_mode_becomes_rgb(mode):
    format = "JPEG" if mode == "CMYK" else "PNG"
    assert Image(8, 8).decode(encoded(Pillow.new(mode, (20, 12)), format), "png").shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "undecodable_image"),
        (b"no picture", "undecodable_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "undecodable_image"),
        (encoded(Pillow.new("RGB", (40, 40), "red"))[:60], "undecodable_image"),
        (encoded(Pillow.new("1", (9000, 9000))), "image_too_large"),
        (encoded(Pillow.new("1", (1, 20000))), "image_aspect"),
    ],
)
def test_what_is_no_good_picture_is_a_bad_sample(data, reason):
    with pytest.raises(BadSample) as bad:
        Image(16, 16).decode(data, "jpg")
    assert bad.value.reason == reason


def test_a_shift_moves_the_picture_and_keeps_its_size():
    image = Image(16, 16, max_shift=3)
    value = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    moved = [image.augment(value, np.random.default_rng(seed)) for seed in range(5)]
    assert all(picture.shape == value.shape for picture in moved)
    assert len({picture.tobytes() for picture in moved}) > 1


# ---- audio


def test_channels_are_mixed_and_the_rate_is_changed():
    tone = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100) * 0.5
    decoded = Audio(16000, 5.0).decode(sound(np.stack([tone, tone], 1), 44100), "wav")
    assert abs(len(decoded) - 16000) <= 1
    assert np.argmax(np.abs(np.fft.rfft(decoded))) == pytest.approx(440, abs=1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "undecodable_audio"),
        (b"RIFF" + b"\0" * 60, "undecodable_audio"),
        (sound(np.zeros(0)), "audio_too_short"),
        (sound(np.zeros(100)), "audio_too_short"),
        (sound(np.full(16000, np.nan, np.float32), subtype="FLOAT"), "audio_not_finite"),
        (sound(np.full(16000, 0.5))[:16000], "audio_cut"),
    ],
)
def test_what_is_no_good_sound_is_a_bad_sample(data, reason):
    with pytest.raises(BadSample) as bad:
        Audio(16000, 5.0).decode(data, "wav")
    assert bad.value.reason == reason


def test_a_wav_of_unknown_length_as_streams_write_it_is_read_to_its_end():
    whole = sound(np.full(16000, 0.5))
    streamed = whole[:4] + b"\xff" * 4 + whole[8:40] + b"\xff" * 4 + whole[44:]
    assert whole[36:40] == b"data"
    assert len(Audio(16000, 5.0).decode(streamed, "wav")) == 16000


def test_every_sound_that_prepare_takes_is_read():
    tone = np.sin(np.arange(16000) / 9) * 0.3
    for format in ("WAV", "FLAC", "OGG", "MP3"):
        assert format.lower() in Audio.members
        assert abs(len(Audio(16000, 5.0).decode(sound(tone, format=format), format.lower())) - 16000) < 2500


def test_long_sound_is_cut_and_loud_sound_is_clipped():
    audio = Audio(16000, 1.0)
    decoded = audio.decode(sound(np.full(40000, 3.0, np.float32), subtype="FLOAT"), "wav")
    inputs = audio.collate([decoded, decoded[:800]])
    assert inputs["waveform"].shape == (2, 16000)
    assert inputs["lengths"].tolist() == [16000, 800]
    assert inputs["waveform"].max() == 1.0
    assert inputs["waveform"][1, 800:].abs().max() == 0


def test_noise_changes_a_sound_but_not_its_length_or_kind():
    audio = Audio(16000, 1.0, max_noise=0.5)
    value = (np.sin(np.arange(20000) / 9) * 0.3).astype(np.float32)
    noisy = audio.augment(value, np.random.default_rng(0))
    assert noisy.dtype == np.float32
    assert len(noisy) == 16000
    assert np.abs(noisy).max() <= 1


# ---- text, label, conversation


def test_text_is_cleaned_and_padded():
    text = Text(TOKENIZER, max_tokens=12)
    clean = text.decode("\ufeffa red\u202e seven\r\n".encode(), "txt")
    assert clean == "a red seven"
    inputs = text.collate([clean, "a red seven left of a blue two left of a"])
    assert inputs["input_ids"].shape[1] <= 12
    assert inputs["attention_mask"][0].sum() < inputs["attention_mask"][1].sum()
    assert (inputs["input_ids"][0][~inputs["attention_mask"][0]] == 0).all()


def test_a_special_token_in_a_text_is_text():
    text = Text(TOKENIZER, max_tokens=40)
    ids = text.collate(["[EOS] a [MASK]"])["input_ids"][0].tolist()
    assert ids.count(text.tokenizer.token_to_id("[EOS]")) == 1
    assert text.tokenizer.token_to_id("[MASK]") not in ids


@pytest.mark.parametrize("pre_tokenizer", [pre_tokenizers.Whitespace(), pre_tokenizers.WhitespaceSplit()])
def test_a_special_token_in_a_text_stays_text_in_a_worker_and_with_any_tokenizer(pre_tokenizer):
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "dog": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]"])
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    text = pickle.loads(pickle.dumps(Text(tokenizer.to_str(), max_tokens=16)))
    inputs = text.collate(["dog [CLS] cat dog"])
    ids = inputs["input_ids"][inputs["attention_mask"]].tolist()
    assert ids.count(2) == 1  # the one that the tokenizer itself adds
    assert ids.count(3) == 2
    assert 1 in ids  # an unknown word still is one


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_text"),
        (b" \n", "empty_text"),
        (b"\xff\xfe\x00", "not_utf8"),
    ],
)
def test_what_is_no_good_text_is_a_bad_sample(data, reason):
    with pytest.raises(BadSample) as bad:
        Text(TOKENIZER, max_tokens=8).decode(data, "txt")
    assert bad.value.reason == reason


def test_an_unknown_class_is_a_bad_sample():
    label = Label(["one", "two"])
    assert label.decode(b"two\n", "cls") == 1
    with pytest.raises(BadSample, match="'three' is not one of one, two"):
        label.decode(b"three", "cls")


def conversation(**changes):
    settings = {
        "tokenizer_json": TOKENIZER,
        "max_tokens": 64,
        "media": ["audio", "image"],
        "chat_format": {"user": "[USER]{}", "assistant": "[ASSISTANT]{}[EOS]"},
    }
    return Conversation(**{**settings, **changes})


def turns(*pairs):
    return json.dumps({"conversations": [{"from": who, "value": what} for who, what in pairs]}).encode()


def test_marks_stand_for_media_and_answers_are_told_apart():
    modality = conversation()
    value = modality.decode(
        turns(("human", "<image>\nseven?"), ("gpt", "a red"), ("human", "left?"), ("gpt", "two")), "json"
    )
    inputs = modality.collate([value])
    ids, answers = inputs["input_ids"][0], inputs["answer_mask"][0]
    assert (ids == -2).sum() == 1
    said = modality.tokenizer.decode(ids[answers].tolist(), skip_special_tokens=False)
    assert said == "a red[EOS]two[EOS]"
    prompt = inputs["prompt_length"][0]
    assert modality.tokenizer.decode(ids[prompt:].tolist(), skip_special_tokens=False) == "two[EOS]"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "conversation_layout"),
        (b"[1]", "conversation_layout"),
        (b"{}", "conversation_layout"),
        (b'{"conversations": []}', "conversation_roles"),
        (turns(("gpt", "hello")), "conversation_roles"),
        (turns(("human", "a"), ("human", "b")), "conversation_roles"),
        (turns(("system", "a")), "conversation_layout"),
        (turns(("human", 3)), "conversation_layout"),
        (b"[" * 100000, "conversation_layout"),
    ],
)
def test_what_is_no_conversation_is_a_bad_sample(data, reason):
    with pytest.raises(BadSample) as bad:
        conversation().decode(data, "json")
    assert bad.value.reason == reason


def test_a_conversation_that_is_too_long_is_a_bad_sample():
    with pytest.raises(BadSample) as bad:
        conversation(max_tokens=4).decode(turns(("human", "a red seven"), ("gpt", "two")), "json")
    assert bad.value.reason == "conversation_too_long"

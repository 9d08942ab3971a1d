"""Signals follow what is done to a picture, a sound and a text, and stay within 0 and 1."""

import json

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from datamodules.preparation.cleaning.filter import Reject
from datamodules.preparation.cleaning.quality import MEMBER, SIGNALS, LowQuality, Quality, laplacian, signals

SINE = np.sin(2 * np.pi * 400 * np.arange(16_000) / 16_000)


def test_all_signals_are_there_and_lie_between_0_and_1(sample, picture, as_jpeg, as_wav):
    pictures = [
        picture(0),
        Image.new("RGB", (2, 2)),
        Image.new("L", (900, 50), 255),
        Image.effect_noise((64, 64), 200),
    ]
    sounds = [SINE, 0 * SINE, np.sign(SINE), 1e-9 * SINE]
    texts = [b"a dog", b"", b"$$$ 12 12 12", b"\xff\xfe"]
    for image, sound, text in zip(pictures, sounds, texts, strict=True):
        found = signals(sample(jpg=as_jpeg(image.convert("RGB")), wav=as_wav(sound), txt=text))
        assert {modality: tuple(names) for modality, names in found.items()} == SIGNALS
        assert all(0 <= value <= 1 for names in found.values() for value in names.values())


def test_a_blurred_picture_is_less_sharp_at_any_size(sample, picture, as_jpeg):
    def sharpness(image):
        return signals(sample(png=as_jpeg(image, "PNG")))["image"]["sharpness"]

    for image in (ImageOps.posterize(picture(0, 640, 480), 2), Image.effect_noise((512, 512), 120)):
        found = [sharpness(image.filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 3, 9)]
        assert found[0] > found[1] > found[2]
    larger = picture(1).resize((640, 480))
    assert sharpness(larger) == pytest.approx(sharpness(picture(1)), rel=0.2)


def test_the_laplacian_of_a_paraboloid_is_constant():
    y, x = np.mgrid[0:9, 0:7].astype(np.float32)
    np.testing.assert_allclose(laplacian(3 * x**2 + y**2), 8.0)


def test_dark_and_burnt_out_pictures_are_badly_exposed(sample, picture, as_jpeg):
    def found(change):
        return signals(sample(png=as_jpeg(picture(0).point(change), "PNG")))["image"]

    plain, dark, burnt = (
        found(change) for change in (lambda v: v, lambda v: v // 8, lambda v: min(255, v * 3))
    )
    assert plain["exposure"] > max(dark["exposure"], burnt["exposure"])
    assert plain["unclipped"] > burnt["unclipped"]
    assert plain["contrast"] > dark["contrast"]


def test_noise_lowers_the_estimate_of_signal_over_noise(sample, as_wav):
    speech = SINE * (np.arange(16_000) % 4_000 < 2_000) * 0.3
    noise = np.random.default_rng(0).standard_normal(16_000)
    found = [
        signals(sample(wav=as_wav(speech + level * noise)))["audio"]["snr"] for level in (1e-4, 0.01, 0.1)
    ]
    assert found[0] > found[1] > found[2]


def test_codes_and_repetitions_are_noisy_texts(sample):
    plain, code, repeated = (
        signals(sample(txt=text))["text"]
        for text in (b"a dog on the grass", b"SKU#4711-99/b $12.50", b"buy buy buy buy")
    )
    assert plain["letters"] == 1 and code["letters"] < 0.5
    assert plain["variety"] == 1 and repeated["variety"] == 0.25


def test_the_member_holds_the_signals_of_what_is_there(sample):
    made = Quality()(sample(txt=b"a dog", jpg=b"no picture"))
    assert json.loads(made.members[MEMBER]) == {"text": {"letters": 1.0, "variety": 1.0}}
    assert made.members["txt"] == b"a dog"


def test_samples_below_a_bound_are_dropped_under_the_name_of_the_signal(sample):
    chosen = LowQuality({"text.variety": 0.5, "image.sharpness": 0.1})
    assert chosen.examine(sample(txt=b"a dog")) is None
    with pytest.raises(Reject, match="low text variety"):
        chosen.examine(sample(txt=b"buy buy buy"))
    with pytest.raises(ValueError, match=r"names text\.beauty; the signals are .*audio\.snr"):
        LowQuality({"text.beauty": 0.5})

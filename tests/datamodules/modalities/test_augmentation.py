"""Augmentation: drawn from the generator of the sample alone, and impossible settings are refused."""

import json

import numpy as np
import pytest
import torch
from bad_media import encoded
from PIL import Image as Pillow

from datamodules.modalities.audio import Audio
from datamodules.modalities.image import Image
from datamodules.modalities.synonyms import Table, load_synonyms
from datamodules.modalities.text import Text
from datamodules.preparation.tokenizer import train_tokenizer

PIXELS = np.random.default_rng(7).integers(0, 256, (60, 80, 3), dtype=np.uint8)
WAVEFORM = (np.sin(np.arange(16000) / 9) * 0.3).astype(np.float32)
TOKENIZER = train_tokenizer(["a big dog"] * 3, vocab_size=270)
OPTIONS = {
    "crop_scale": {"crop_scale": [0.2, 0.8]},
    "flip": {"flip": 0.5},
    "color_jitter": {"color_jitter": {"brightness": 0.5, "hue": 0.2}},
    "rand_augment": {"rand_augment": {"num_ops": 2, "magnitude": 15}},
    "max_shift": {"max_shift": 4},
    "all": {"crop_scale": [0.5, 1], "flip": 0.5, "color_jitter": {"contrast": 0.5}, "rand_augment": {}},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_same_generator_gives_the_same_picture_and_the_global_one_is_untouched(options):
    image = Image(32, 40, **options)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, second = (image.augment(PIXELS, np.random.default_rng(3)) for _ in range(2))
    others = [image.augment(PIXELS, np.random.default_rng(seed)).tobytes() for seed in range(12)]
    assert (first == second).all()
    assert len(set(others)) > 1
    assert first.shape == (32, 40, 3)
    assert first.dtype == np.uint8
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    assert image.collate([first, second])["pixels"].shape == (2, 3, 32, 40)


def test_a_crop_is_cut_before_it_is_scaled():
    image = Image(32, 32, crop_scale=[0.05, 0.06])
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(
        np.uint8
    )  # a pattern that scaling down would turn grey
    cut = image.augment(np.repeat(checks[..., None], 3, 2), np.random.default_rng(0))
    assert cut.std() > 60


def test_a_mirrored_picture_is_mirrored():
    image = Image(60, 80, flip=1.0)
    assert (image.augment(PIXELS, np.random.default_rng(0)) == PIXELS[:, ::-1]).all()


def test_a_picture_that_is_to_be_cropped_keeps_enough_pixels_for_the_smallest_crop():
    data = encoded(Pillow.new("RGB", (1600, 1600)), "JPEG")
    assert Image(100, 100).decode(data, "jpg").shape == (100, 100, 3)
    assert Image(100, 100, crop_scale=[0.25, 1]).decode(data, "jpg").shape[0] >= 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"crop_scale": [0.0, 1.0]},
            "crop_scale is .0.0, 1.0.: expected two rising numbers above 0, at most 1",
        ),
        ({"crop_scale": [0.5]}, "crop_scale"),
        ({"crop_scale": [0.9, 1.2]}, "at most 1"),
        ({"crop_ratio": [2, 1]}, "crop_ratio"),
        ({"flip": 1.5}, "flip is 1.5: expected a probability"),
        ({"max_shift": -1}, "max_shift is -1"),
        ({"max_shift": 99}, "expected 0 to 32 pixels"),
        ({"color_jitter": {"hue": 3}}, "color_jitter.*hue"),
        ({"color_jitter": {"colour": 3}}, "color_jitter.*colour"),
        ({"rand_augment": {"magnitude": 40}}, "a magnitude from 0 to 30"),
        ({"rand_augment": {"num_ops": 0}}, "num_ops of at least 1"),
    ],
)
def test_settings_of_pictures_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Image(32, 32, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_noise": -1}, "max_noise is -1"),
        ({"max_gain_db": 99}, "0 to 60 dB"),
        ({"spec_augment": {}}, "hides no part of a spectrogram"),
        ({"spec_augment": {"num_time_masks": -1}, "has_spectrogram": True}, "-1 time masks"),
        ({"spec_augment": {"max_mel_share": 2}, "has_spectrogram": True}, "max_mel_share 2"),
        ({"min_seconds": 9}, "min_seconds <= max_seconds"),
    ],
)
def test_settings_of_sounds_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Audio(16000, 1.0, **options)


def test_gain_stays_within_its_decibels():
    audio = Audio(16000, 1.0, max_gain_db=6)
    levels = [np.abs(audio.augment(WAVEFORM, np.random.default_rng(seed))).max() for seed in range(20)]
    assert min(levels) >= 0.3 * 0.5
    assert max(levels) <= 0.3 * 2.0
    assert max(levels) > 1.2 * min(levels)


def test_masks_of_the_spectrogram_come_with_the_batch_and_repeat_with_the_generator():
    settings = {"num_time_masks": 3, "max_time_share": 0.2, "num_mel_masks": 1, "max_mel_share": 0.5}
    audio = Audio(16000, 1.0, spec_augment=settings, has_spectrogram=True)
    batches = [
        audio.collate([audio.augment(WAVEFORM, np.random.default_rng(seed)) for seed in (1, 2)])
        for _ in range(2)
    ]
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])
    spans = batches[0]["time_masks"]
    assert spans.shape == (2, 3, 2)
    assert batches[0]["mel_masks"].shape == (2, 1, 2)
    assert ((spans[..., 1] - spans[..., 0] <= 0.2 + 1e-6) & (spans >= 0).all(-1) & (spans <= 1).all(-1)).all()
    assert not torch.equal(spans[0], spans[1])
    untouched = audio.collate([WAVEFORM])  # as in validation
    assert (untouched["time_masks"] == 0).all()
    assert audio.collate([])["time_masks"].shape == (0, 3, 2)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "synonyms.tsv"
    path.write_text("big\tlarge\thuge\ndog\thound\n", encoding="utf-8")
    return path


def test_words_become_their_synonyms_by_the_generator(table):
    text = Text(TOKENIZER, 16, synonyms=str(table), synonym_share=1.0)
    said = {text.augment("A Big dog, undogged.", np.random.default_rng(seed)) for seed in range(20)}
    assert said == {"A Large hound, undogged.", "A Huge hound, undogged."}
    rare = Text(TOKENIZER, 16, synonyms=str(table), synonym_share=0.1)
    kept = [rare.augment("big", np.random.default_rng(seed)) == "big" for seed in range(200)]
    assert 0.8 < np.mean(kept) < 0.98


def test_a_table_in_json_is_as_good(table, tmp_path):
    (tmp_path / "table.json").write_text(json.dumps({"big": ["large", "huge"], "dog": ["hound"]}))
    assert Table(tmp_path / "table.json").synonyms == Table(table).synonyms


@pytest.mark.parametrize("content", ["[1]", '{"a": "b"}', "{", '{"a": []}'])
def test_a_table_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "table.json").write_text(content)
    with pytest.raises(ValueError, match=r"table\.json"):
        Table(tmp_path / "table.json")


def test_synonyms_without_a_source_or_a_share_are_refused(table):
    with pytest.raises(ValueError, match="expected both"):
        Text(TOKENIZER, 16, synonym_share=0.1)
    with pytest.raises(ValueError, match="expected both"):
        Text(TOKENIZER, 16, synonyms=str(table))
    with pytest.raises(FileNotFoundError, match=r"expected a \.tsv or \.json file, or `wordnet`"):
        load_synonyms("nowhere.tsv")


@pytest.mark.slow
def test_wordnet_is_never_downloaded(tmp_path, monkeypatch):
    nltk = pytest.importorskip("nltk")
    from nltk.corpus.util import LazyCorpusLoader

    reader = nltk.corpus.reader
    absent = LazyCorpusLoader(
        "wordnet", reader.WordNetCorpusReader, LazyCorpusLoader("omw", reader.CorpusReader, ".*")
    )
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr("nltk.corpus.wordnet", absent)
    with pytest.raises(ValueError, match=r"nltk\.downloader wordnet"):
        load_synonyms("wordnet")

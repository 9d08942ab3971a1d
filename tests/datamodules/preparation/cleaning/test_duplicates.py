"""Near duplicates: what is done to pictures and texts on their way through the web, and what is another one."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image, ImageOps

from datamodules.preparation.cleaning.duplicates import (
    ExactDuplicates,
    NearDuplicateImages,
    NearDuplicateTexts,
)
from datamodules.preparation.cleaning.filter import Rejected


def test_only_samples_equal_in_all_members_are_duplicates(sample):
    duplicates = ExactDuplicates()
    findings = [
        duplicates.examine(item)
        for item in (
            sample(txt=b"a", jpg=b"b"),
            sample(jpg=b"b", txt=b"a"),
            sample(txt=b"a"),
            sample(txt=b"ajpg 1 b"),
        )
    ]
    verdicts = [duplicates.judge(finding, key) for finding, key in zip(findings, "abcd", strict=True)]
    assert verdicts == [None, Rejected("exact duplicate", twin="a"), None, None]


def verdicts(chosen, items):
    """Judge items in order as `prepare` does: findings pass from one process to another."""
    return [chosen.judge(pickle.loads(pickle.dumps(chosen.examine(item))), item.key) for item in items]


def crop(picture, share):
    across, down = round(share * picture.width), round(share * picture.height)
    return picture.crop((across, down, picture.width - across, picture.height - down))


CHANGES = {
    "compressed hard": lambda picture: (picture, {"quality": 15}),
    "halved": lambda picture: (picture.resize((160, 120)), {}),
    "doubled": lambda picture: (picture.resize((640, 480)), {}),
    "squared": lambda picture: (picture.resize((224, 224)), {}),
    "as PNG": lambda picture: (picture, {"kind": "PNG"}),
    "in grey": lambda picture: (picture.convert("L"), {}),
    "brighter": lambda picture: (picture.point(lambda level: min(255, level + 20)), {}),
    "cropped by 1 %": lambda picture: (crop(picture, 0.01), {}),
}


@pytest.mark.parametrize("method", ["phash", "dhash"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_picture_that_was_changed_a_little_is_found_with_its_twin(change, method, sample, picture, as_jpeg):
    chosen = NearDuplicateImages(method=method, max_distance=8)
    originals = [sample(f"original-{number}", jpg=as_jpeg(picture(number))) for number in range(5)]
    changed, options = CHANGES[change](picture(3))
    found = verdicts(chosen, [*originals, sample("changed", jpg=as_jpeg(changed, **options))])
    assert found == [None] * 5 + [Rejected("near-duplicate image", twin="original-3")]


@pytest.mark.parametrize("method", ["phash", "dhash"])
def test_different_pictures_are_not_duplicates(method, sample, picture, as_jpeg):
    items = [sample(str(number), jpg=as_jpeg(picture(number, 160, 120))) for number in range(60)]
    assert verdicts(NearDuplicateImages(method=method), items) == [None] * 60


def test_a_larger_distance_finds_larger_crops(sample, picture, as_jpeg):
    items = [sample("whole", jpg=as_jpeg(picture(0))), sample("cut", jpg=as_jpeg(crop(picture(0), 0.03)))]
    assert verdicts(NearDuplicateImages(max_distance=2), items) == [None, None]
    assert verdicts(NearDuplicateImages(max_distance=16), items)[1] == Rejected(
        "near-duplicate image", "whole"
    )


def test_a_mirrored_picture_is_a_duplicate_only_when_asked(sample, picture, as_jpeg):
    items = [
        sample("left", jpg=as_jpeg(picture(0))),
        sample("right", jpg=as_jpeg(ImageOps.mirror(picture(0)))),
    ]
    assert verdicts(NearDuplicateImages(), items) == [None, None]
    assert verdicts(NearDuplicateImages(flips=True), items)[1] == Rejected("near-duplicate image", "left")


def test_a_picture_turned_by_its_exif_tag_is_the_upright_one(sample, picture, as_jpeg):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by a quarter
    turned = as_jpeg(picture(0).transpose(Image.Transpose.ROTATE_90), exif=exif, quality=95)
    items = [sample("upright", jpg=as_jpeg(picture(0))), sample("turned", jpg=turned)]
    assert verdicts(NearDuplicateImages(), items)[1] == Rejected("near-duplicate image", "upright")


def test_pictures_without_contrast_are_not_judged(sample, as_jpeg):
    items = [sample(str(grey), jpg=as_jpeg(Image.new("RGB", (64, 64), (grey,) * 3))) for grey in (0, 90, 255)]
    items += [sample("text", txt=b"no picture"), sample("broken", jpg=b"<html>")]
    assert verdicts(NearDuplicateImages(), items) == [None] * 5


def test_twins_are_found_across_formats_and_transparency(sample, picture, as_jpeg):
    file = io.BytesIO()
    pixels = np.dstack([np.asarray(picture(0)), np.full((240, 320), 255, np.uint8)])
    Image.fromarray(pixels).save(file, "PNG")
    items = [sample("a", webp=as_jpeg(picture(0), "WEBP")), sample("b", png=file.getvalue())]
    assert verdicts(NearDuplicateImages(), items)[1] == Rejected("near-duplicate image", "a")


TEXT = (
    "Two children in yellow raincoats are playing with a large brown dog on the beach while their father "
    "looks for shells between the rocks."
)


@pytest.mark.parametrize(
    "changed",
    [
        TEXT.upper(),
        TEXT.replace(",", "").replace(".", "!"),
        TEXT.replace("  ", " ").replace("brown", "black"),
        TEXT.replace("large ", ""),
        "Photo: " + TEXT,
    ],
)
def test_a_text_with_a_word_changed_is_found_with_its_twin(changed, sample):
    others = [
        sample(
            "other", txt=b"A red car is parked in front of an old house with a green door and a small garden."
        )
    ]
    items = [*others, sample("first", txt=TEXT.encode()), sample("second", txt=changed.encode())]
    assert verdicts(NearDuplicateTexts(min_similarity=0.7), items) == [
        None,
        None,
        Rejected("near-duplicate text", twin="first"),
    ]


def test_a_paraphrase_is_another_text(sample):
    paraphrase = (
        "Kids wearing rain jackets play by the sea with their pet; dad collects seashells among the stones."
    )
    items = [sample("a", txt=TEXT.encode()), sample("b", txt=paraphrase.encode())]
    assert verdicts(NearDuplicateTexts(), items) == [None, None]


def test_the_estimate_is_near_the_jaccard_similarity_of_the_shingles(sample):
    chosen = NearDuplicateTexts(num_hashes=256)
    words = TEXT.split()
    for cut in range(1, len(words), 3):
        other = " ".join(words[cut:])
        first, second = (
            chosen._signature(chosen.examine(sample(txt=text.encode()))) for text in (TEXT, other)
        )
        shingles = [chosen.shingles(text) for text in (TEXT, other)]
        exact = len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])
        assert first.jaccard(second) == pytest.approx(exact, abs=0.12)


def test_short_texts_are_duplicates_only_when_equal_but_for_case_and_signs(sample):
    items = [
        sample(str(number), txt=text)
        for number, text in enumerate((b"cat", b"Cat!", b"dog", b"...", b"", b"..."))
    ]
    items.append(sample("none", jpg=b""))
    found = [verdict and verdict.twin for verdict in verdicts(NearDuplicateTexts(), items)]
    assert found == [None, "0", None, None, None, None, None]


def test_settings_that_make_no_sense_are_refused():
    for settings in ({"min_similarity": 1.0}, {"num_hashes": 4}, {"shingle_characters": 0}):
        with pytest.raises(ValueError, match="expected"):
            NearDuplicateTexts(**settings)
    with pytest.raises(ValueError, match="hash_size"):
        NearDuplicateImages(hash_size=2)


def test_a_package_that_is_not_installed_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr("datamodules.preparation.cleaning.packages.find_spec", lambda name: None)
    for chosen, package in ((NearDuplicateImages, "imagehash"), (NearDuplicateTexts, "datasketch")):
        with pytest.raises(ValueError, match=rf"{package} is not installed: pip install 'trivium\[clean\]'"):
            chosen()

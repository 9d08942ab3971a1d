"""Filters on media and text made to fail them."""

import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from datamodules.preparation.cleaning import (
    EmptyText,
    ExactDuplicates,
    Reject,
    Rejected,
    TextLength,
    Undecodable,
    load,
    normalise,
)
from datamodules.sources.source import Sample


def image(width=32, height=24, kind="JPEG"):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


def sound(samples, kind="WAV", subtype="FLOAT"):
    file = io.BytesIO()
    soundfile.write(file, np.asarray(samples, np.float32), 16_000, format=kind, subtype=subtype)
    return file.getvalue()


def sample(**members):
    return Sample("k", members, "k")


TONE = np.sin(np.arange(16_000) / 10)


@pytest.mark.parametrize(
    "members",
    [
        {"jpg": image()},
        {"png": image(kind="PNG")},
        {"jpg": image(kind="PNG")},
        {"webp": image(kind="WEBP")},
        {"wav": sound(TONE)},
        {"flac": sound(TONE, "FLAC", "PCM_16")},
        {"ogg": sound(TONE, "OGG", "VORBIS")},
        {"wav": sound(TONE)[:4] + b"\xff\xff\xff\xff" + sound(TONE)[8:]},
        {"txt": b"no media at all"},
    ],
)
def test_good_media_pass(members):
    chosen = Undecodable()
    assert chosen.judge(chosen.examine(sample(**members)), "k") is None


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"jpg": b""}, "undecodable image"),
        ({"jpg": image(200, 200)[:4000]}, "undecodable image"),
        ({"png": image(200, 200, "PNG")[:4000]}, "undecodable image"),
        ({"jpg": b"<html>404</html>"}, "undecodable image"),
        ({"jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, "undecodable image"),
        ({"jpg": image(32, 24, "TIFF")}, "undecodable image"),
        ({"png": image(400, 2, "PNG")}, "image too large or too narrow"),
        ({"wav": b""}, "undecodable sound"),
        ({"wav": b"<html>404</html>"}, "undecodable sound"),
        ({"wav": sound(TONE)[:20_000]}, "undecodable sound"),
        ({"flac": sound(TONE, "FLAC", "PCM_16")[:5000]}, "undecodable sound"),
        ({"wav": sound([])}, "sound too short"),
        ({"wav": sound([0.0, np.nan] * 1000)}, "sound not finite"),
        ({"wav": sound(np.tile(TONE, 3))}, "sound too long"),
    ],
)
def test_bad_media_are_rejected(members, reason):
    with pytest.raises(Reject, match=reason):
        Undecodable(max_seconds=2).examine(sample(**members))


def test_too_many_pixels_are_rejected_without_being_decoded():
    with pytest.raises(Reject, match="too large"):
        Undecodable(max_pixels=700).examine(sample(jpg=image(32, 24)[:700]))


@pytest.mark.parametrize("text", ["", " ", "...", "—"])
def test_text_without_letter_or_digit_is_rejected(text):
    with pytest.raises(Reject, match="empty text"):
        EmptyText().examine(sample(txt=text.encode()))


def test_text_length_bounds_are_kept():
    bounds = TextLength(min_characters=2, max_characters=4)
    bounds.examine(sample(txt="éé".encode()))
    bounds.examine(sample(jpg=b"no text"))
    with pytest.raises(Reject, match="too short"):
        bounds.examine(sample(txt="é".encode()))
    with pytest.raises(Reject, match="too long"):
        bounds.examine(sample(txt=b"12345"))


def test_only_samples_equal_in_all_members_are_duplicates():
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


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xef\xbb\xbfa dog\r\non  grass\n", "a dog on grass"),
        (b"a\x00b\x1b[31m c", "ab[31m c"),
        ("\u202eabc\u200b d\u00e9".encode(), "abc d\u00e9"),
    ],
)
def test_text_is_normalised(data, text):
    assert normalise(data) == text


def test_what_cannot_be_read_is_rejected(tmp_path):
    with pytest.raises(Reject, match="not UTF-8"):
        load(sample(txt=b"caf\xe9"))
    with pytest.raises(Reject, match="unreadable file"):
        load(sample(jpg=tmp_path / "gone.jpg"))

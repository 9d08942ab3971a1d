"""The filter for media on media made to fail it."""

import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from datamodules.preparation.cleaning.filter import Reject
from datamodules.preparation.cleaning.media import Undecodable
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
        ({"jpg": b"%PDF-1.4\n%%EOF\n"}, "undecodable image"),
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

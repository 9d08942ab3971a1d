"""Bad and awkward media: each becomes a BadSample with its reason or a normal value, in loading as in preparing."""

import io
import sys
import time

import bad_media
import numpy as np
import pytest
import torch
from bad_media import IMAGES, SOUNDS, VIDEOS
from PIL import Image as Pillow
from PIL import ImageOps
from torchvision.transforms import v2

from datamodules.modalities.audio import Audio
from datamodules.modalities.bad_sample import BadSample
from datamodules.modalities.image import Image
from datamodules.modalities.video import Video
from datamodules.preparation.cleaning.filter import Reject
from datamodules.preparation.cleaning.media import check_image, check_sound

IMAGE, AUDIO, VIDEO = Image(48, 64), Audio(16000, 5.0), Video(48, 64, 8)


def outcome(modality, data):
    try:
        return modality.decode(data, "any"), None
    except BadSample as bad:
        return None, bad.reason


def reasons(case):
    return case.reason.split(" or ") if case.reason else [None]


@pytest.mark.parametrize("name", IMAGES)
def test_a_picture_is_a_bad_sample_or_its_pixels(name):
    case = IMAGES[name]
    pixels, reason = outcome(IMAGE, case.make())
    assert reason in reasons(case)
    if case.reason is None:
        assert pixels.shape == (48, 64, 3)
        assert pixels.dtype == np.uint8
        assert 117 <= pixels.mean() <= 138 or name == "mode 1"  # a ramp from black to white


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_is_a_bad_sample_or_a_second_in_range(name):
    case = SOUNDS[name]
    waveform, reason = outcome(AUDIO, case.make())
    assert reason in reasons(case)
    if case.reason is None:
        assert 0.95 <= len(waveform) / 16000 <= 1.12
        assert np.isfinite(waveform).all()
        assert 0.01 < np.abs(waveform).max() <= 1


@pytest.mark.parametrize("name", VIDEOS)
def test_a_video_is_a_bad_sample_or_its_frames(name):
    pytest.importorskip("av")
    case = VIDEOS[name]
    frames, reason = outcome(VIDEO, case.make())
    assert reason in reasons(case)
    if case.reason is None:
        assert 1 <= len(frames) <= 8
        assert frames.shape[1:] == (48, 64, 3)


@pytest.mark.parametrize(
    ("cases", "modality", "check"),
    [
        (IMAGES, IMAGE, lambda data: check_image(data, IMAGE.max_pixels, IMAGE.max_aspect)),
        (SOUNDS, AUDIO, lambda data: check_sound(data, 0.05, 10.0)),
    ],
    ids=["image", "audio"],
)
def test_preparing_drops_what_loading_would_skip(cases, modality, check):
    for name, case in cases.items():
        try:
            check(case.make())
            is_kept = True
        except Reject:
            is_kept = False
        assert is_kept == (case.reason is None), name


@pytest.mark.parametrize("mode", ["RGBA", "WEBP"])
def test_colour_under_transparency_does_not_show(mode):
    assert (IMAGE.decode(bad_media.transparent(mode), "png") == 255).all()


def test_a_transparent_palette_colour_does_not_show():
    assert (IMAGE.decode(bad_media.hidden_palette(), "gif") == 255).all()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied_to_every_format(format, orientation):
    data = bad_media.oriented(format, orientation)
    with Pillow.open(io.BytesIO(data)) as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    height, width = upright.shape[:2]
    decoded = Image(height, width).decode(data, "any")
    assert np.abs(decoded.astype(int) - upright).max() <= 1


def test_a_video_opens_no_file_no_socket_and_starts_nothing(tmp_path):
    pytest.importorskip("av")
    seen = []
    watching = [True]
    watched = ("open", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.posix_spawn")
    sys.addaudithook(lambda event, args: watching and event in watched and seen.append((event, args)))
    for case in VIDEOS.values():
        data = case.make()
        seen.clear()
        outcome(VIDEO, data)
        assert not [call for call in seen if not str(call[1][0]).endswith((".py", ".pyc", ".so"))]
    watching.clear()


ROBUST = {
    "jpg": (IMAGE, lambda: bad_media.encoded(bad_media.picture(), "JPEG")),
    "progressive": (IMAGE, lambda: bad_media.encoded(bad_media.picture(), "JPEG", progressive=True)),
    "png": (IMAGE, lambda: bad_media.encoded(bad_media.picture())),
    "gif": (IMAGE, lambda: bad_media.encoded(bad_media.picture(), "GIF")),
    "webp": (IMAGE, lambda: bad_media.encoded(bad_media.picture(), "WEBP")),
    "wav": (AUDIO, lambda: bad_media.sound(bad_media.tone())),
    "flac": (AUDIO, lambda: bad_media.sound(bad_media.tone(), format="FLAC")),
    "ogg": (AUDIO, lambda: bad_media.sound(bad_media.tone(), format="OGG")),
    "mp4": (VIDEO, lambda: bad_media.clip()),
    "mkv": (VIDEO, lambda: bad_media.clip(format="matroska")),
}


@pytest.mark.parametrize("kind", ROBUST)
def test_random_damage_gives_a_value_or_a_bad_sample_and_nothing_else(kind):
    if kind in ("mp4", "mkv"):
        pytest.importorskip("av")
    modality, make = ROBUST[kind]
    whole, rng = make(), np.random.default_rng(0)
    reasons = set()
    start = time.process_time()
    for trial in range(60):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            damaged = damaged[: int(rng.integers(1, len(damaged)))]
        else:
            for place in rng.integers(0, len(damaged), 1 if trial % 3 == 1 else 8):
                damaged[place] ^= 1 << int(rng.integers(8))
        value, reason = outcome(modality, bytes(damaged))
        reasons.add(reason)
        if value is not None:
            modality.collate([value])
        elif trial % 3 == 0:
            assert reason is not None
    assert reasons - {None}
    assert time.process_time() - start < 60 * 10  # the bound for each


def test_frames_are_spread_over_the_time_of_a_clip_and_few_are_padded_and_masked():
    pytest.importorskip("av")
    long, short = VIDEO.decode(bad_media.clip(), "mp4"), VIDEO.decode(bad_media.clip(frames=3), "mp4")
    inputs = VIDEO.collate([long, short])
    assert inputs["pixels"].shape == (2, 8, 3, 48, 64)
    assert inputs["mask"].sum(1).tolist() == [8, 3]
    levels = long.mean((1, 2, 3))
    assert np.abs(levels - 10 * (np.arange(8) * 3 + 1.5)).max() < 18  # frame n has level 10 n; eight of 24
    assert (inputs["pixels"][1, 3:] == inputs["pixels"][1, 2]).all()


def test_a_clip_that_would_cost_too_much_is_a_bad_sample():
    pytest.importorskip("av")
    assert outcome(Video(48, 64, 2, max_decoded_pixels=48 * 64 * 3), bad_media.clip()) == (
        None,
        "video_too_costly",
    )
    assert outcome(Video(48, 64, 2, max_pixels=1000), bad_media.clip()) == (None, "video_too_large")
    assert outcome(Video(48, 64, 2, max_seconds=1), bad_media.clip()) == (None, "video_too_long")


@pytest.mark.parametrize("size", [(48, 64), (96, 64), (500, 700)])
def test_scaling_is_torchvisions_resize_and_centre_cut(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    ours = Image(40, 40).decode(bad_media.encoded(Pillow.fromarray(pixels), "BMP"), "bmp")
    steps = v2.Compose([v2.Resize(40, v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(40)])
    theirs = steps(torch.from_numpy(pixels).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    bound = 0 if min(size) < 80 else 60  # twice as large and more is averaged first
    assert np.abs(ours.astype(int) - theirs).max() <= bound

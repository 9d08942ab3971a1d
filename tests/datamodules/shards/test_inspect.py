"""Inspecting shards: counts, sizes and durations are those of the media, and damage is named."""

import io
import json

import numpy as np
import pytest

from datamodules.shards.inspect import Spread, inspect_shards
from datamodules.shards.writer import write_shards


def picture(width, height):
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "png")
    return buffer.getvalue()


def sound(seconds):
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(int(16000 * seconds)), 16000, format="flac")
    return buffer.getvalue()


@pytest.fixture
def shards(tmp_path):
    samples = [{"png": picture(10 + n, 20), "txt": b"x" * (n + 1)} for n in range(3)]
    samples += [{"flac": sound(seconds), "txt": b"four"} for seconds in (0.5, 1.5)]
    samples += [{"png": b"no picture"}, {"wav": b"no sound"}, {"pkl": b"code"}]
    made = write_shards(
        ({"__key__": str(n), **members} for n, members in enumerate(samples)), tmp_path, max_samples=4
    )
    manifest = {"set": "mine", "samples": 7, "shards": [{"name": shard["name"]} for shard in made]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def test_samples_members_and_their_sizes_are_counted(shards):
    found = inspect_shards(shards)
    assert (found.shards, found.samples, found.lost) == (2, 7, 1)
    assert found.kinds == {"png txt": 3, "flac txt": 2, "png": 1, "wav": 1}
    assert found.members["txt"] == Spread(count=5, total=14, least=1, median=3, most=4)
    assert found.left_out["unsafe_member"].names == ["7.pkl"]
    assert found.manifests == {str(shards): {"set": "mine", "samples": 7}}
    assert found.bytes == sum(tar.stat().st_size for tar in shards.glob("*.tar"))


def test_sizes_of_images_and_durations_of_sounds_are_read_from_headers(shards):
    found = inspect_shards(shards)
    assert found.image_pixels["png"]["width"] == Spread(3, 33, 10, 11, 12)
    assert found.image_pixels["png"]["height"].most == 20
    assert found.sound_s == {"flac": Spread(2, 2, 0.5, 1, 1.5)}
    assert [name.split(":")[0] for name in found.unreadable.names] == ["5.png", "6.wav"]


@pytest.mark.parametrize(("asked", "examined"), [(0, 0), (1, 1), (3, 3), (100, 7)])
def test_no_more_samples_are_examined_than_asked_for(shards, asked, examined):
    assert inspect_shards(shards, max_examined=asked).examined == examined


def test_shards_of_nothing_but_damage_are_inspected_too(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"<html>")
    found = inspect_shards(tmp_path)
    assert (found.samples, found.members, list(found.left_out)) == (0, {}, ["not_a_tar"])

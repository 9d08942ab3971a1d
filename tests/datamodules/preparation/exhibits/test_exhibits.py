"""Exhibits: plain values whatever the media are, a fair choice, and no difference for having been stopped."""

import base64
import io
import json
import random
import struct
import zlib

import bad_media
import numpy as np
import pytest
import soundfile
from PIL import Image

from datamodules.preparation.exhibits.exhibits import DROPPED, KEPT, REASONS, Exhibits, Worth, exhibit
from datamodules.preparation.exhibits.measures import MEASURES, measure
from datamodules.preparation.exhibits.previews import MAX_FILE_BYTES, MAX_PLAYED_BYTES, preview
from datamodules.sources.source import Dropped, Sample, Slice


def image(size=(640, 480), kind="JPEG", mode="RGB", colour="red", **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, kind, **options)
    return file.getvalue()


def sound(seconds=1.0, kind="FLAC", level=0.5, channels=1, rate_hz=16_000, **options) -> bytes:
    file = io.BytesIO()
    wave = level * np.sin(np.arange(round(seconds * rate_hz)) * 0.2)
    soundfile.write(file, np.tile(wave[:, None], (1, channels)), rate_hz, format=kind, **options)
    return file.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def thumbnail(shown: dict) -> Image.Image:
    head, _, data = shown["uri"].partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)), formats=["JPEG"]).convert("RGB")


def endless(flac: bytes) -> bytes:
    """Return a FLAC whose header does not say how long it is."""
    return flac[:21] + bytes([flac[21] & 0xF0, 0, 0, 0, 0]) + flac[26:]


BAD = {
    "html.jpg": b"<html><script>alert(1)</script>",
    "empty.jpg": b"",
    "cut.png": image(kind="PNG")[:60],
    "huge.png": huge_png(60_000, 60_000),
    "narrow.png": huge_png(1, 20_000),
    "many scans.jpg": bad_media.many_scans(),
    "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "empty.wav": b"",
    "cut.flac": sound()[:50],
    "noise.mp3": bytes(range(256)) * 40,
    "endless.flac": endless(sound()),
    "nan.wav": sound(kind="WAV", subtype="FLOAT", level=float("nan")),
}


# ---- previews


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_shown_is_said_to_be_so_and_raises_nothing(name):
    shown = preview(name.rpartition(".")[2], BAD[name])
    assert shown["kind"] == "bad" and shown["why"]
    assert "uri" not in shown


@pytest.mark.parametrize("size", [(640, 480), (4000, 100), (3, 2), (160, 160)])
def test_a_thumbnail_has_at_most_160_pixels_a_side_and_tells_the_size_of_the_whole(size):
    shown = preview("png", image(size, "PNG"))
    assert (shown["width"], shown["height"]) == size
    assert max(thumbnail(shown).size) <= 160


def test_a_thumbnail_stands_upright_on_white_and_keeps_sixteen_bits_apart():
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter
    assert thumbnail(preview("jpg", image((200, 100), exif=turned))).size == (80, 160)
    clear = image((8, 8), "PNG", "RGBA", (0, 0, 0, 0))
    assert min(thumbnail(preview("png", clear)).getpixel((4, 4))) > 250
    gray = Image.fromarray(np.full((8, 8), 0x8000, np.uint16))
    file = io.BytesIO()
    gray.save(file, "PNG")
    assert abs(thumbnail(preview("png", file.getvalue())).getpixel((4, 4))[0] - 128) < 4


def test_a_small_sound_can_be_played_and_a_large_one_is_only_drawn():
    short, long = preview("flac", sound(1.5)), preview("wav", sound(9.0, "WAV"))
    assert short["seconds"] == 1.5 and short["uri"].startswith("data:audio/flac;base64,")
    assert len(sound(9.0, "WAV")) > MAX_PLAYED_BYTES and "uri" not in long
    for shown in (short, long):
        assert len(shown["peaks"]) == 120
        assert max(shown["peaks"]) == 1 and min(shown["peaks"]) > 0.9


def test_the_type_of_a_sound_is_that_of_its_bytes_not_of_its_name():
    assert preview("mp3", sound(kind="WAV"))["uri"].startswith("data:audio/wav;")


def test_a_text_is_cut_and_rid_of_what_changes_how_others_are_shown():
    shown = preview("txt", "\ufeff\u202eabc\x00\n".encode() + b"\xff" + b"x" * 10_000)
    assert shown["text"].startswith("\ufffdabc\ufffd\n\ufffdxxx")
    assert len(shown["text"]) == 300 and shown["is_cut"]
    assert preview("cls", b"zero") == {"suffix": "cls", "kind": "text", "text": "zero", "is_cut": False}


def test_a_member_in_a_file_is_read_late_and_no_further_than_is_affordable(tmp_path):
    (tmp_path / "a.png").write_bytes(b"..." + image((9, 9), "PNG"))
    piece = Slice(tmp_path / "a.png", 3, 10_000)
    assert preview("png", piece)["kind"] == "picture"
    assert preview("png", tmp_path / "gone.png")["why"] == "unreadable: No such file or directory"
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    assert preview("png", tmp_path / "large.png")["why"] == "too large to show"
    assert preview("mp4", tmp_path / "film.mp4") == {"suffix": "mp4", "kind": "file"}


# ---- exhibits


def test_an_exhibit_is_plain_and_small_however_large_the_sample():
    members = {f"{number}.jpg": image((2000, 1500)) for number in range(20)} | {"txt": b"y" * 100_000}
    shown = exhibit(Sample("k", dict(reversed(members.items())), "n" * 5000))
    assert json.loads(json.dumps(shown)) == shown
    assert len(json.dumps(shown)) < 30_000 and len(shown["previews"]) == 6
    assert shown["bytes"] == sum(map(len, members.values()))


def test_a_name_that_utf_8_lacks_is_shown_and_can_be_written():
    shown = exhibit(Dropped("caf\udce9\u202e.jpg", "unreadable file"))
    assert shown["name"] == "caf\ufffd\ufffd.jpg"
    json.dumps(shown, ensure_ascii=False).encode()


def test_a_dropped_sample_tells_its_reason_and_what_it_resembles():
    dropped = Dropped("b.jpg", "exact duplicate", Sample("b", {"jpg": image()}, "b.jpg"), twin="a")
    shown = exhibit(dropped)
    assert (shown["reason"], shown["twin"], shown["previews"][0]["kind"]) == (
        "exact duplicate",
        "a",
        "picture",
    )
    assert exhibit(Dropped("c", "empty text"))["previews"] == []


def collect(items: list[Sample | Dropped], stops: tuple[int, ...] = ()) -> Exhibits:
    """Collect items in order, stopped and gone on with at each of `stops`."""
    exhibits = Exhibits()
    for place, item in enumerate(items):
        if place in stops:
            exhibits = Exhibits.from_plain(json.loads(json.dumps(exhibits.to_plain())))
        if isinstance(item, Sample):
            exhibits.keep(item, measure(item))
        else:
            exhibits.drop(item)
    return exhibits


@pytest.fixture(scope="module")
def items() -> list[Sample | Dropped]:
    kept = [Sample(f"k{n}", {"txt": f"word {n}".encode() * (n + 1)}, f"k{n}") for n in range(60)]
    reasons = ["empty text", "exact duplicate"]
    dropped = [Dropped(f"d{n}", reasons[n % 2], twin=f"k{n}" if n % 2 else None) for n in range(40)]
    mixed = [*kept, *dropped]
    random.Random(0).shuffle(mixed)
    return mixed


def test_stopping_anywhere_changes_no_byte(items):
    whole = json.dumps(collect(items).to_plain())
    for stops in [(0,), (1, 2), (50,), (13, 14, 99)]:
        assert json.dumps(collect(items, stops).to_plain()) == whole


def test_a_journal_of_news_brings_back_every_byte_and_holds_few_exhibits(items):
    exhibits, journal = Exhibits(), []
    for place, item in enumerate(items):
        if isinstance(item, Sample):
            exhibits.keep(item, measure(item))
        else:
            exhibits.drop(item)
        if place % 9 == 0 or place == len(items) - 1:
            journal.append(json.dumps(exhibits.news()))
    resumed = Exhibits()
    for news in journal:
        resumed.replay(json.loads(news))
    assert json.dumps(resumed.to_plain()) == json.dumps(exhibits.to_plain())
    assert sum(len(json.loads(news)["fresh"]) for news in journal) < len(items)


def test_what_comes_to_be_shown_was_worth_sending_in_whichever_process_it_was(items):
    processes = [Worth(), Worth(), Worth()]
    dropped = [item for item in items if isinstance(item, Dropped)]
    sent = {one.name for n, one in enumerate(dropped) if processes[n % 3](one.name, one.reason)}
    shown = {entry["name"] for some in collect(dropped).to_plain()["dropped"].values() for _, entry in some}
    assert shown <= sent


def test_a_process_sends_few_of_many():
    worth = Worth()
    assert sum(worth(f"sample {n}", "empty text") for n in range(5000)) < 100


def test_the_choice_is_bounded_and_does_not_depend_on_the_order(items):
    first, turned = collect(items), collect(items[::-1])
    first, turned = first.to_plain(), turned.to_plain()
    assert first["kept"] == turned["kept"] and first["dropped"] == turned["dropped"]
    assert len(first["kept"]) == KEPT
    assert {reason: len(some) for reason, some in first["dropped"].items()} == {
        "empty text": DROPPED,
        "exact duplicate": DROPPED,
    }


def test_samples_are_shown_from_all_of_a_set_not_from_its_beginning():
    in_order = [Sample(f"{n:04d}", {"txt": b"x"}, f"{n:04d}") for n in range(600)]
    shown = [int(entry["key"]) for _, entry in collect(in_order).to_plain()["kept"]]
    assert min(shown) < 200 and max(shown) > 400


def test_many_reasons_do_not_fill_the_memory():
    many = collect([Dropped(f"d{n}", f"reason {n}") for n in range(1000)])
    assert len(many.dropped) == REASONS


def test_the_same_name_is_shown_once():
    alike = collect([Dropped("clip.mp4", "unusable cue") for _ in range(9)])
    assert len(alike.to_plain()["dropped"]["unusable cue"]) == 1


@pytest.mark.parametrize(
    "content", [{}, {"version": 2}, {"version": 1, "kept": 3}, [], {"version": 1, "kept": [1]}]
)
def test_what_is_no_exhibits_is_refused_with_what_to_do(content):
    with pytest.raises(ValueError, match="Prepare the set again"):
        Exhibits.from_plain(content)


# ---- measures


def test_a_sample_is_measured_in_each_of_its_kinds():
    members = {"jpg": image((640, 480)), "flac": sound(2.5, level=0.5), "txt": "zwei Wörter".encode()}
    found = measure(Sample("k", members, "k"))
    assert found.keys() == MEASURES.keys()
    expected = {
        "text_characters": 11,
        "text_words": 2,
        "image_width": 640,
        "image_height": 480,
        "sound_seconds": 2.5,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["image_aspect"] == pytest.approx(4 / 3)
    assert found["sound_level"] == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.1)
    assert found["bytes"] == sum(map(len, members.values()))


@pytest.mark.parametrize(
    "name", [name for name in BAD if not name.startswith(("cut.png", "huge", "narrow", "many"))]
)
def test_bad_media_have_no_measure_but_their_size(name):
    found = measure(Sample("k", {name.rpartition(".")[2]: BAD[name]}, "k"))
    assert found == {"bytes": len(BAD[name])}


def test_text_that_is_not_utf_8_and_members_of_no_known_kind_are_not_measured():
    assert measure(Sample("k", {"txt": b"caf\xe9", "npy": b"12"}, "k")) == {"bytes": 6}


def test_silence_has_a_level_and_an_image_is_measured_from_its_header_alone():
    assert measure(Sample("k", {"wav": sound(kind="WAV", level=0.0)}, "k"))["sound_level"] == -100
    header = image((30, 20), "PNG")[:60]
    assert measure(Sample("k", {"png": header}, "k"))["image_width"] == 30


def test_of_several_pictures_the_first_is_measured():
    members = {"png": image((10, 20), "PNG"), "jpg": image((30, 40))}
    assert measure(Sample("k", members, "k"))["image_width"] == 10

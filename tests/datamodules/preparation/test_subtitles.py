"""Reading subtitles: what is repaired, what is counted, what is refused."""

import pytest

from datamodules.preparation.subtitles import Cue, SubtitleError, read_subtitles, write_subtitles

GOOD = "1\n00:00:01,000 --> 00:00:02,500\none\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo\nlines\n"
CUES = [Cue(1.0, 2.5, "one"), Cue(3.0, 4.0, "two lines")]


def written(tmp_path, text, name="a.srt", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        GOOD.replace(",", "."),
        GOOD.replace("00:00:", "00:"),
        GOOD.replace("1\n00", "7\n00").replace("2\n00", "7\n00"),
        GOOD.replace("\n\n2\n", "\n2\n"),
        GOOD.replace("one", "<i>{\\an8}one</i>"),
        "\n\n".join(reversed(GOOD.strip().split("\n\n"))),
    ],
)
def test_variants_of_srt_are_read_alike(tmp_path, text):
    assert read_subtitles(written(tmp_path, text)) == (CUES, 0)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_with_or_without_mark_is_read(tmp_path, encoding):
    cues, skipped = read_subtitles(written(tmp_path, GOOD.replace("one", "où ça"), encoding=encoding))
    assert (cues[0].text, skipped) == ("où ça", 0)


def test_vtt_leaves_out_notes_styles_and_markup(tmp_path):
    text = "WEBVTT\n\nSTYLE\n::cue { color: red }\n\nNOTE no cue\n\n"
    text += "00:01.000 --> 00:02.500 line:0\n<v Bob>one &amp; all\n"
    assert read_subtitles(written(tmp_path, text, "a.vtt")) == ([Cue(1.0, 2.5, "one & all")], 0)


@pytest.mark.parametrize(
    "bad",
    [
        "-00:00:05,000 --> 00:00:06,000\nnegative",
        "00:00:06,000 --> 00:00:05,000\nbackwards",
        "00:00:05,000 --> 00:00:05,000\nno length",
        "00:75:00,000 --> 00:76:00,000\nminutes",
        "00:00:99,000 --> 00:01:40,000\nseconds",
        "00:00:05,000 --> 00:00:06,000",
        "00:00:05,0",
        "garbage --> garbage\nx",
    ],
)
def test_a_bad_cue_is_counted_and_the_others_are_kept(tmp_path, bad):
    assert read_subtitles(written(tmp_path, f"{GOOD}\n3\n{bad}\n")) == (CUES, 1)


def test_overlapping_cues_are_kept(tmp_path):
    cues, skipped = read_subtitles(written(tmp_path, GOOD.replace("00:00:02,500", "00:00:03,500")))
    assert ([cue.text for cue in cues], skipped) == (["one", "two lines"], 0)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.srt", b"", "no usable cue"),
        ("a.srt", GOOD.replace("one", "café").encode("latin-1"), "not utf-8"),
        ("a.vtt", b"00:01.000 --> 00:02.000\none\n", "WEBVTT"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path, name, data, message):
    with pytest.raises(SubtitleError, match=message):
        read_subtitles(written(tmp_path, data, name))


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "a.srt"
    write_subtitles(path, CUES)
    assert read_subtitles(path) == (CUES, 0)

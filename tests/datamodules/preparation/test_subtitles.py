"""Reading subtitles: what is repaired, what is counted, what is refused."""

import pytest

from datamodules.preparation.subtitles import Cue, SubtitleError, read_subtitles, write_subtitles

GOOD = "1\n00:00:01,000 --> 00:00:02,500\none\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo\nlines\n"
CUES = [Cue(1.0, 2.5, "one"), Cue(3.0, 4.0, "two lines")]


def written(tmp_path, text, name="a.srt", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def plain(read):
    return read.cues, read.num_skipped


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
    assert plain(read_subtitles(written(tmp_path, text))) == (CUES, 0)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_with_or_without_mark_is_read(tmp_path, encoding):
    read = read_subtitles(written(tmp_path, GOOD.replace("one", "où ça"), encoding=encoding))
    assert (read.cues[0].text, read.num_skipped) == ("où ça", 0)


def test_vtt_leaves_out_notes_styles_and_markup(tmp_path):
    text = "WEBVTT\n\nSTYLE\n::cue { color: red }\n\nNOTE no cue\n\n"
    text += "00:01.000 --> 00:02.500 line:0\n<v Bob>one &amp; all\n"
    assert plain(read_subtitles(written(tmp_path, text, "a.vtt"))) == ([Cue(1.0, 2.5, "one & all")], 0)


def test_vtt_reads_regions_identifiers_and_words_timed_within(tmp_path):
    text = "WEBVTT - title\r\nKind: captions\r\n\r\nREGION\r\nid:fred\r\n\r\nNOTE\r\ntwo\r\nlines\r\n\r\n"
    text += "intro 7\r\n00:01.000 --> 00:02.500 align:start\r\n<c.loud>one</c> <00:01.700>two\r\n"
    assert plain(read_subtitles(written(tmp_path, text, "a.vtt"))) == ([Cue(1.0, 2.5, "one two")], 0)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("-00:00:05,000 --> 00:00:06,000\nnegative", "negative time"),
        ("00:00:06,000 --> 00:00:05,000\nbackwards", "end not after start"),
        ("00:00:05,000 --> 00:00:05,000\nno length", "end not after start"),
        ("00:75:00,000 --> 00:76:00,000\nminutes", "time out of range"),
        ("00:00:99,000 --> 00:01:40,000\nseconds", "time out of range"),
        ("00:00:05,000 --> 00:00:06,000", "no text"),
        ("00:00:05,000 --> 00:00:06,000\n<i></i>", "no text"),
        ("00:00:05,0", "malformed time"),
        ("00:00:05,000 -->", "malformed time"),
        ("garbage --> garbage\nx", "malformed time"),
        (f"{'9' * 6000}:00:00,000 --> {'9' * 6000}:00:01,000\nlong", "malformed time"),
    ],
)
def test_a_bad_cue_is_counted_by_reason_and_the_others_are_kept(tmp_path, bad, reason):
    read = read_subtitles(written(tmp_path, f"{GOOD}\n3\n{bad}\n"))
    assert (read.cues, read.skipped) == (CUES, {reason: 1})


def test_overlapping_and_unordered_cues_are_kept_and_counted(tmp_path):
    read = read_subtitles(written(tmp_path, GOOD.replace("00:00:02,500", "00:00:03,500")))
    assert ([cue.text for cue in read.cues], read.notes) == (["one", "two lines"], {"overlapping": 1})
    read = read_subtitles(written(tmp_path, "\n\n".join(reversed(GOOD.strip().split("\n\n")))))
    assert (read.cues, read.notes) == (CUES, {"unordered": 1})


@pytest.mark.parametrize(
    "text", [f"{GOOD}\n3\n00:00:05,000 --> 00:00:06,000\n{'<' * 500_000}{'a ' * 250_000}\n", GOOD * 10_000]
)
def test_a_cue_of_a_megabyte_and_twenty_thousand_cues_are_read(tmp_path, text):
    assert len(read_subtitles(written(tmp_path, text)).cues) in (3, 20_000)


def test_one_letter_does_not_tell_the_encoding_so_that_its_cue_is_skipped(tmp_path):
    data = GOOD.replace("one", "café").encode("latin-1")
    read = read_subtitles(written(tmp_path, data))
    assert (read.cues, read.skipped) == (CUES[1:], {"undecodable text": 1})


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.srt", b"", "no usable cue"),
        ("a.srt", "1\n00:00:01,000 --> 00:00:02,000\ncafé\n".encode("latin-1"), "undecodable text"),
        ("a.srt", GOOD.encode() + bytes(range(256)) * 4, "control characters"),
        ("a.vtt", b"00:01.000 --> 00:02.000\none\n", "WEBVTT"),
        ("a.vtt", b"WEBVTTX\n\n00:01.000 --> 00:02.000\none\n", "WEBVTT"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path, name, data, message):
    with pytest.raises(SubtitleError, match=message):
        read_subtitles(written(tmp_path, data, name))


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "a.srt"
    write_subtitles(path, CUES)
    assert plain(read_subtitles(path)) == (CUES, 0)

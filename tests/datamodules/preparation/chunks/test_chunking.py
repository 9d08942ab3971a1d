"""What is cut into chunks and put together again is what it was."""

import io
import itertools
import json
import random

import numpy as np
import pytest
import soundfile

from datamodules.preparation.chunks.chunking import Chunks
from datamodules.preparation.chunks.merging import merge_steps, merge_text, merge_transcripts
from datamodules.preparation.chunks.sound import SoundChunks
from datamodules.preparation.chunks.text import TextChunks
from datamodules.preparation.chunks.video import VideoChunks
from datamodules.preparation.cleaning.filter import Reject
from datamodules.sources.source import Sample

RATE_HZ = 1000


def prose(num_words, seed=0):
    """Return sentences of one to twelve words."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefgé", k=chance.randint(1, 9))) for _ in range(num_words)]
    return " ".join(word + chance.choice(["", "", "", "", ".", "?", ',"']) for word in words)


def sound(samples, kind="WAV", subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, samples, RATE_HZ, format=kind, subtype=subtype)
    return file.getvalue()


def noise(num_samples, channels=1, dtype="int16"):
    limits = np.iinfo(dtype)
    drawn = np.random.default_rng(0).integers(limits.min, limits.max, (num_samples, channels))
    return (drawn.astype(dtype) & ~0xFF) if dtype == "int32" else drawn.astype(dtype)


def cut(chunks, **members):
    """Return the chunks of a sample, and where each lies."""
    made = list(chunks(Sample("k", members, "k")))
    return made, [json.loads(sample.members["chunk.json"]) for sample in made]


@pytest.mark.parametrize("count", ["characters", "words"])
@pytest.mark.parametrize(("length", "overlap"), [(100, 0), (100, 20), (40, 20), (7, 3)])
def test_text_that_is_cut_and_merged_is_what_it_was(count, length, overlap):
    text = prose(400)
    made, places = cut(Chunks(text=TextChunks(length, overlap, count)), txt=text.encode())
    texts = [sample.members["txt"].decode() for sample in made]
    size = (lambda text: len(text.split())) if count == "words" else len
    assert len(texts) > 2 and all(0 < size(each) <= max(length, overlap) for each in texts)
    assert merge_text(texts, [(place["start"], place["end"]) for place in places]) == text
    shared = [before["end"] - after["start"] for before, after in itertools.pairwise(places)]
    assert (max(shared) > 0) == (overlap > 0)
    if count == "characters":
        assert max(shared) <= overlap


def test_text_is_cut_behind_sentences_where_one_ends_in_the_second_half():
    made, _ = cut(
        Chunks(text=TextChunks(length=24, overlap=0)),
        txt=b"One two three. Four five six. Seven eight nine ten.",
    )
    assert [sample.members["txt"] for sample in made] == [
        b"One two three.",
        b"Four five six.",
        b"Seven eight nine ten.",
    ]


@pytest.mark.parametrize("text", ["x" * 1000, "今天天气很好。" * 60, "字" * 500, "a " * 300 + "b" * 300])
@pytest.mark.parametrize("overlap", [0, 10])
def test_text_without_spaces_is_cut_and_merged_as_well(text, overlap):
    text = text.strip()
    made, places = cut(Chunks(text=TextChunks(length=100, overlap=overlap)), txt=text.encode())
    texts = [sample.members["txt"].decode() for sample in made]
    assert max(map(len, texts)) <= 100
    assert merge_text(texts, [(place["start"], place["end"]) for place in places]) == text


@pytest.mark.parametrize(("seconds", "overlap_s"), [(3, 0), (3, 1), (2.5, 1.25)])
@pytest.mark.parametrize(
    ("kind", "subtype", "dtype", "channels"),
    [("WAV", "PCM_16", "int16", 1), ("FLAC", "PCM_16", "int16", 2), ("FLAC", "PCM_24", "int32", 1)],
)
def test_sound_that_is_cut_and_merged_is_what_it_was_to_the_sample(
    seconds, overlap_s, kind, subtype, dtype, channels
):
    whole = noise(10_007, channels, dtype)
    made, places = cut(
        Chunks(sound=SoundChunks(seconds, overlap_s)), **{kind.lower(): sound(whole, kind, subtype)}
    )
    read = [soundfile.read(io.BytesIO(each.members["flac"]), dtype=dtype, always_2d=True) for each in made]
    pieces = [piece for piece, _ in read]
    assert {rate for _, rate in read} == {RATE_HZ} == {place["per_second"] for place in places}
    for seam in ("centre", "fade") if dtype == "int16" else ("centre",):
        merged = merge_steps(pieces, [place["start"] for place in places], seam)
        assert np.abs(merged.astype(int) - whole).max() <= (seam == "fade")
    assert len(pieces[-1]) > overlap_s * RATE_HZ
    assert [len(piece) for piece in pieces] == [place["end"] - place["start"] for place in places]


def test_keys_number_chunks_and_other_members_are_in_each():
    whole = noise(5000)
    made, places = cut(Chunks(sound=SoundChunks(2, 0)), wav=sound(whole), cls=b"dog", jpg=b"picture")
    assert [sample.key for sample in made] == ["k-c000", "k-c001", "k-c002"]
    assert all(sample.members["cls"] == b"dog" and sample.members["jpg"] == b"picture" for sample in made)
    assert all(sorted(sample.members) == ["chunk.json", "cls", "flac", "jpg"] for sample in made)
    assert places[1] == {
        "of": "k", "number": 1, "member": "flac", "unit": "samples", "start": 2000, "end": 4000, "per_second": 1000,
    }  # fmt: skip


def test_what_is_short_stays_as_it_is():
    sample = Sample("k", {"wav": sound(noise(2000)), "txt": b"short"}, "k")
    assert list(Chunks(text=TextChunks(), sound=SoundChunks(2, 1))(sample)) == [sample]


def test_a_sample_that_is_long_in_sound_and_text_is_rejected():
    sample = Sample("k", {"wav": sound(noise(9000)), "txt": prose(100).encode()}, "k")
    with pytest.raises(Reject, match="several long members"):
        list(Chunks(text=TextChunks(50, 10), sound=SoundChunks(2, 1))(sample))


def test_a_sound_that_is_cut_off_makes_no_chunks():
    whole = sound(noise(20_000), "FLAC")
    with pytest.raises(Reject, match="undecodable sound"):
        list(Chunks(sound=SoundChunks(2, 1))(Sample("k", {"flac": whole[:20_000]}, "k")))


@pytest.mark.parametrize("chunks", [TextChunks, SoundChunks, VideoChunks])
def test_an_overlap_of_more_than_half_is_refused(chunks):
    with pytest.raises(ValueError, match="half of"):
        chunks(10, 6)


@pytest.mark.parametrize("reach", [0, 1, 4])
def test_framewise_features_of_chunks_merge_to_those_of_the_whole(reach):
    """A model that sees `reach` steps to either side, with zeros beyond the ends, as convolutions do."""
    draw = np.random.default_rng(1)
    kernel, whole = draw.normal(size=2 * reach + 1), draw.normal(size=(101, 3))

    def features(steps):
        padded = np.pad(steps, ((reach, reach), (0, 0)))
        return sum(kernel[n] * padded[n : n + len(steps)] for n in range(len(kernel)))

    starts = list(range(0, 101 - 2 * reach, 20 - 2 * reach))
    chunks = [features(whole[start : start + 20]) for start in starts]
    np.testing.assert_allclose(merge_steps(chunks, starts), features(whole), atol=1e-12)
    if reach:
        chunks = [features(whole[start : start + 20]) for start in range(0, 101, 20)]
        merged = merge_steps(chunks, list(range(0, 101, 20)))
        assert np.abs(merged - features(whole)).max() > 0.01, "without overlap the cuts should show"


def test_a_fade_goes_from_one_chunk_to_the_next():
    merged = merge_steps([np.zeros((6, 1)), np.ones((6, 1))], [0, 2], "fade")
    np.testing.assert_allclose(merged[:, 0], [0, 0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1, 1])


@pytest.mark.parametrize(
    ("lengths", "starts"),
    [([4, 4], [0, 5]), ([4, 4], [2, 1]), ([4, 1], [0, 1]), ([4, 4, 4], [0, 2, 3]), ([], [])],
)
def test_chunks_that_leave_a_gap_or_cross_are_refused(lengths, starts):
    with pytest.raises(ValueError, match="expected"):
        merge_steps([np.zeros((length, 2)) for length in lengths], starts)


def test_text_that_does_not_go_on_is_refused():
    with pytest.raises(ValueError, match="does not go on"):
        merge_text(["the dog", "cat runs"], [(0, 7), (4, 12)])


def test_transcripts_of_overlapping_sounds_hold_what_was_heard_twice_once():
    heard = [
        "The quick brown fox jumps ov",
        "own fox, jumps over the lazy",
        "Over the lazy dog.",
        "It sleeps.",
    ]
    assert merge_transcripts(heard) == "The quick brown fox jumps over the lazy dog. It sleeps."
    assert merge_transcripts([]) == "" == merge_transcripts(["", ""])
    assert merge_transcripts(["a b", "", "c"]) == "a b c"


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Ten seconds, 25 frames each: a frame is as bright as it is late; a click in each second; one key frame."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("video") / "long.mp4"
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=25, options={"g": "1000", "crf": "10"})
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        tone = container.add_stream("aac", rate=16_000, layout="mono")
        for number in range(250):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8), "rgb24")
            container.mux(pictures.encode(frame))
        samples = np.zeros((1, 160_000), np.float32)
        for second in range(10):
            samples[0, second * 16_000 + 8000 :][:800] = 0.8 * np.sin(np.arange(800) / 3)
        for start in range(0, 160_000, 1024):
            frame = av.AudioFrame.from_ndarray(samples[:, start : start + 1024], "fltp", "mono")
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(tone.encode(frame))
        container.mux(pictures.encode(None))
        container.mux(tone.encode(None))
    return path


def test_video_is_cut_at_any_frame_with_the_sound_of_its_pictures(video):
    import av

    chunks = Chunks(video=VideoChunks(seconds=4, overlap_s=1))
    made, places = cut(chunks, mp4=video, txt=b"of all of it")
    assert [(place["start"], place["end"]) for place in places] == [(0, 4000), (3000, 7000), (6000, 10_000)]
    for sample, place in zip(made, places, strict=True):
        with av.open(io.BytesIO(sample.members["mp4"])) as container:
            shown = [
                (frame.time, frame.to_ndarray(format="rgb24").mean()) for frame in container.decode(video=0)
            ]
        assert len(shown) == 100
        for number, (time, brightness) in enumerate(shown):
            assert time == pytest.approx(number / 25, abs=1e-3)
            assert brightness == pytest.approx(place["start"] / 40 + number, abs=3)
        with av.open(io.BytesIO(sample.members["mp4"])) as container:
            parts = [(frame.pts, frame.to_ndarray()[0]) for frame in container.decode(audio=0)]
        waveform = np.concatenate([np.zeros(max(0, parts[0][0])), *(part for _, part in parts)])
        waveform = waveform[max(0, -parts[0][0]) :]
        clicks = [np.argmax(np.abs(waveform[second * 16_000 :]) > 0.3) - 8000 for second in range(4)]
        assert all(abs(click) < 160 for click in clicks), f"clicks are {clicks} samples late"
        assert len(waveform) == pytest.approx(64_000, abs=2048)


def test_a_video_as_bytes_is_cut_to_the_same_bytes_each_time(video):
    chunks = Chunks(video=VideoChunks(seconds=6, overlap_s=0))
    made = [[sample.members for sample in cut(chunks, mp4=given)[0]] for given in (video, video.read_bytes())]
    assert made[0] == made[1] and len(made[0]) == 2


def test_the_bytes_of_a_piece_do_not_depend_on_what_lay_in_memory(tmp_path):
    av = pytest.importorskip("av")
    ramp = np.add.outer(np.arange(64), np.arange(64))[..., None] * [1, 2, 3]
    with av.open(str(tmp_path / "moving.mp4"), "w") as container:
        pictures = container.add_stream("libx264", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
        tone = container.add_stream("aac", rate=16_000, layout="mono")
        for number in range(160):
            frame = av.VideoFrame.from_ndarray((ramp + 3 * number).astype(np.uint8), "rgb24")
            container.mux(pictures.encode(frame))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 6 * 16_000), np.float32), "fltp", "mono")
        silence.sample_rate = 16_000
        container.mux(tone.encode(silence))
        container.mux(pictures.encode(None))
        container.mux(tone.encode(None))
    made = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        dirt = [rng.integers(0, 255, size, dtype=np.uint8) for size in rng.integers(1_000, 300_000, 50)]
        del dirt  # freed, it is what the encoder's buffers hold at first
        made.add(
            tuple(piece.data for piece in VideoChunks(seconds=6, overlap_s=0).cut(tmp_path / "moving.mp4"))
        )
    assert len(made) == 1


def test_a_broken_video_is_rejected_and_no_file_of_ours_stays(video, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    broken = video.read_bytes()
    broken = broken[:2000] + bytes(6000) + broken[8000:]
    chunks = VideoChunks(seconds=4, overlap_s=1)
    with pytest.raises(Reject, match="undecodable video"):
        list(chunks.cut(b"\0\0\0\x20ftypisom" + bytes(100)))
    if chunks.is_long(broken):
        with pytest.raises(Reject):
            list(chunks.cut(broken))
    assert list(tmp_path.iterdir()) == []

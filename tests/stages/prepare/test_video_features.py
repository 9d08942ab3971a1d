"""Features of videos: of each frame those of the image encoder, of unchanged frames without encoding them."""

import io

import numpy as np
import pytest
import torch

from datamodules.modalities.features import unpack
from datamodules.sources.source import Dropped, Sample
from stages.prepare.video_features import VideoFeatureCache

av = pytest.importorskip("av")
pytest.importorskip("datamodules.modalities.video")


def video(levels):
    """Encode frames of plain noise brightened by `levels`, each by itself, so that equal frames decode equally."""
    noise = np.random.default_rng(0).integers(0, 80, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuvj444p"
        stream.options = {"qmin": "3", "qmax": "3"}  # else the rate control changes what is equal
        for level in levels:
            frame = av.VideoFrame.from_ndarray(noise + np.uint8(level), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return Sample("clip", {"mkv": file.getvalue(), "txt": b"a clip"}, "clip.mkv")


@pytest.fixture
def image_part(aligned_parts):
    return str(aligned_parts / "encoders.image")


def test_features_are_those_of_every_frame_and_unchanged_frames_are_not_encoded(image_part, monkeypatch):
    from modules import parts
    from modules.encoders.huggingface import ImageEncoder

    clip = video([0, 0, 0, 120, 120, 0])
    step = VideoFeatureCache(image_part, num_frames=6, dtype="float32")
    _, modality = step._load()
    frames = modality.decode(clip.members["mkv"], "mkv")
    assert len(frames) == 6
    with torch.inference_mode():
        tokens = (
            parts.load(image_part).eval()({"pixels": torch.from_numpy(frames).permute(0, 3, 1, 2)}).features
        )

    forward, seen = ImageEncoder.forward, []
    monkeypatch.setattr(
        ImageEncoder,
        "forward",
        lambda self, inputs: (seen.append(len(inputs["pixels"])), forward(self, inputs))[1],
    )
    [made] = step([clip])
    features, mask = unpack(made.members["video.safetensors"])
    np.testing.assert_allclose(features, tokens.reshape(-1, tokens.shape[-1]).numpy(), atol=1e-5)
    assert mask.all() and sum(seen) == 3
    assert step.report()["features.video"]["frames"] == {"seen": 6, "unchanged": 3, "hit_rate": 0.5}


def test_the_store_keeps_other_numbers_of_frames_and_thresholds_apart(image_part, tmp_path):
    clip = video([0, 60])
    for step, reused in (
        (VideoFeatureCache(image_part, num_frames=2, cache=tmp_path), 0),
        (VideoFeatureCache(image_part, num_frames=1, cache=tmp_path), 0),
        (VideoFeatureCache(image_part, num_frames=2, threshold=90, cache=tmp_path), 0),
        (VideoFeatureCache(image_part, num_frames=2, cache=tmp_path), 1),
    ):
        step([clip])
        assert step.report()["features.video"]["reused"] == reused


def test_training_reads_them_as_a_modality_of_their_own(image_part, tmp_path):
    from datamodules.modalities.build import build_modalities
    from datamodules.shards.writer import write_shards
    from datamodules.stream import SampleSet
    from modules.encoders.cached import CachedEncoder

    [made] = VideoFeatureCache(image_part, num_frames=3, keep_media=False)([video([0, 50, 100])])
    write_shards([{"__key__": made.key, **made.members}], tmp_path)
    encoder = CachedEncoder(image_part, modality="video")
    samples = SampleSet(tmp_path, build_modalities({"video": encoder.input_config}))
    tokens = encoder(samples.batch([0], cursor=1).inputs["video"])
    assert tokens.features.shape == (1, 3 * 16, encoder.dim)


def test_a_broken_video_is_dropped_and_counts_go_on(image_part):
    bad = Sample("bad", {"mkv": b"no video"}, "bad.mkv")
    step = VideoFeatureCache(image_part, num_frames=2)
    assert isinstance(step([bad])[0], Dropped)
    step([video([0, 0])])
    again = VideoFeatureCache(image_part, num_frames=2)
    again.restore(step.state())
    again([video([50, 50])])
    assert again.report()["features.video"]["frames"] == {"seen": 4, "unchanged": 2, "hit_rate": 0.5}


def test_an_encoder_of_something_else_and_senseless_numbers_are_refused(aligned_parts, image_part):
    with pytest.raises(ValueError, match="expected an encoder of images"):
        VideoFeatureCache(str(aligned_parts / "encoders.audio"))([])
    with pytest.raises(ValueError, match="num_frames is 0"):
        VideoFeatureCache(image_part, num_frames=0)

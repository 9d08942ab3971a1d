"""Samples whose modalities disagree in an aligned space are dropped."""

import pytest
import torch

from datamodules.sources.source import Dropped, Sample
from stages.prepare.similarity import LowSimilarity


@pytest.fixture
def cosines(aligned_parts, scenes_shards):
    """The cosine of image and text of each scene, as evaluation embeds them."""
    from datamodules.modalities.build import build_modalities
    from modules.embedder import Embedder
    from stages.embedding import embed_set

    embedder = Embedder.load(aligned_parts)
    space = embed_set(embedder, scenes_shards, build_modalities(embedder.input_configs), batch_size=3)
    image, text, keys = space.pair("image", "text")
    return dict(zip(keys, (image * text).sum(1).tolist(), strict=True))


def test_samples_below_the_bound_are_dropped_and_those_above_are_kept(aligned_parts, samples, cosines):
    bound = sorted(cosines.values())[4] + 1e-4
    step = LowSimilarity(str(aligned_parts), min_similarity=bound, batch_size=4)
    made = step(samples)
    for sample, outcome in zip(samples, made, strict=True):
        is_low = cosines[sample.key] < bound
        expected = Dropped(sample.name, "image and text too dissimilar", sample) if is_low else sample
        assert outcome == expected
    assert sum(step.report()["similarity.image_text"]["from"].values()) == 11


def test_any_two_modalities_will_do(aligned_parts, samples):
    step = LowSimilarity(str(aligned_parts), 1.0, first="audio", second="image")
    assert {outcome.reason for outcome in step(samples)} == {"audio and image too dissimilar"}
    assert sorted(step.identity()) == [
        "encoders.audio",
        "encoders.image",
        "projections.audio",
        "projections.image",
    ]


def test_what_lacks_a_modality_is_kept_and_counted_and_what_is_damaged_is_dropped(
    aligned_parts, samples, without
):
    bad = Sample("bad", {"png": b"<html>", "txt": b"a dog"}, "bad.png")
    step = LowSimilarity(str(aligned_parts), -1.0)
    alone = without(samples[0], "txt")
    assert step([alone, bad, samples[1]]) == [alone, Dropped("bad.png", "undecodable image", bad), samples[1]]
    about = step.report()["similarity.image_text"]
    assert (about["lacking_one"], sum(about["from"].values())) == (1, 1)
    assert step([alone]) == [alone]


def test_the_histogram_goes_on_where_a_run_was_stopped(aligned_parts, samples):
    whole, first, second = (LowSimilarity(str(aligned_parts), -1.0) for _ in range(3))
    whole(samples[:5])
    whole(samples[5:])
    first(samples[:5])
    second.restore(first.state())
    second(samples[5:])
    assert second.report() == whole.report()


def test_settings_that_make_no_sense_are_refused(aligned_parts):
    with pytest.raises(ValueError, match="from -1 to 1"):
        LowSimilarity("parts", 28)
    with pytest.raises(ValueError, match="with itself"):
        LowSimilarity("parts", 0.2, first="text")
    with pytest.raises(ValueError, match=r"encoders\.video"):
        LowSimilarity(str(aligned_parts), 0.2, second="video").identity()


def test_the_vectors_are_unit_vectors(cosines):
    assert torch.tensor(list(cosines.values())).abs().max() <= 1 + 1e-5

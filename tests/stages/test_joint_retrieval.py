"""Joint retrieval: figures worked out by hand, whatever the samples lack, and completions that do not fit."""

import pytest
import torch

from modules import parts
from modules.embedder import Embedder
from modules.encoders.audio import AudioEncoder
from modules.objectives.completion import Completion
from modules.projections import Projection
from stages.embedding import Space
from stages.evaluate.joint_retrieval import Completed, by_mean, joint_recalls, load_completion, whole

TRUNK = {
    "model_type": "modernbert",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "global_attn_every_n_layers": 1,
}


def space(**angles: list[float | None]) -> Space:
    """Return unit vectors in the plane by modality, at angles in degrees; None where a sample lacks the modality."""
    rows = {
        name: [row for row, angle in enumerate(each) if angle is not None] for name, each in angles.items()
    }
    turned = {
        name: torch.deg2rad(torch.tensor([angle for angle in each if angle is not None]))
        for name, each in angles.items()
    }
    return Space(
        [str(row) for row in range(len(next(iter(angles.values()))))],
        {name: torch.stack([angle.cos(), angle.sin()], 1) for name, angle in turned.items()},
        {name: torch.tensor(each) for name, each in rows.items()},
    )


SPACE = space(text=[0.0, 90.0, 180.0], image=[0.0, 90.0, 100.0], audio=[0.0, 40.0, 250.0])
"""Picture 2 is nearest to text 1, speech 1 to text 0; the mean of each sample's two is nearest to its own text."""


def test_two_modalities_find_what_one_of_them_misses():
    found = joint_recalls(SPACE, by_mean)
    assert found["text"]["candidates"] == 3
    assert found["text"]["recall_at_1"] == 1
    assert found["text"]["without"] == pytest.approx({"audio": 2 / 3, "image": 2 / 3})
    assert found["text"]["kept"] == pytest.approx({"audio": 2 / 3, "image": 2 / 3})


def test_samples_that_lack_a_modality_are_no_candidates():
    lacking = space(
        text=[7.0, 0.0, 90.0, None, 180.0],
        image=[None, 0.0, 90.0, 3.0, 100.0],
        audio=[5.0, 0.0, 40.0, 3.0, 250.0],
    )
    assert whole(lacking).keys == ["1", "2", "4"]
    assert joint_recalls(lacking, by_mean) == joint_recalls(SPACE, by_mean)


def test_a_caption_that_two_samples_share_is_right_for_both_and_counts_once():
    shared = space(text=[0.0, 0.0, 180.0], image=[1.0, 2.0, 170.0], audio=[3.0, 4.0, 175.0])
    assert joint_recalls(shared, by_mean)["text"]["recall_at_1"] == pytest.approx(1 / 3), (
        "a tie counts against"
    )
    each = {"0": 0, "1": 1, "2": 2}
    numbers = {"text": {"0": 7, "1": 7, "2": 8}, "image": each, "audio": each}
    found = joint_recalls(shared, by_mean, numbers)
    assert found["text"]["recall_at_1"] == 1
    assert found["text"]["candidates"] == 2


def test_two_modalities_have_nothing_to_ask_jointly():
    assert joint_recalls(space(text=[0.0, 90.0], image=[0.0, 90.0]), by_mean) == {}


def test_a_completion_asks_by_what_it_tells():
    torch.manual_seed(0)
    completion = Completion(["audio", "image", "text"], dim=2, hidden=3)
    asked = Completed(completion)(SPACE, "text", ["image"])
    expected = completion.predict({"image": SPACE.vectors["image"]}, SPACE.rows, 3, "text")[0]
    torch.testing.assert_close(asked, expected.detach())
    assert joint_recalls(SPACE, Completed(completion)).keys() == {"audio", "image", "text"}


def test_a_completion_of_another_run_is_refused(tmp_path):
    encoders = {name: AudioEncoder(TRUNK, max_seconds=2.0, num_mels=20) for name in ("audio", "sound")}
    embedder = Embedder(encoders, {name: Projection(16, 8) for name in encoders})
    assert load_completion(tmp_path, embedder) is None
    parts.save(Completion(["audio", "text"], dim=8), tmp_path / "completion")
    with pytest.raises(ValueError, match=r"completes audio, text in 8 dimensions, .* have audio, sound in 8"):
        load_completion(tmp_path, embedder)
    parts.save(Projection(4, 4), tmp_path / "completion")
    with pytest.raises(ValueError, match="is a Projection, expected a Completion"):
        load_completion(tmp_path, embedder)

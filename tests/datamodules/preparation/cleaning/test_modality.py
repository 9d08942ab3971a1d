"""What a modality refuses is dropped when preparing, under the modality's own reason."""

import pickle

import pytest

from datamodules.preparation.cleaning.filter import Reject
from datamodules.preparation.cleaning.modality import RefusedByModality
from datamodules.preparation.recipe import describe
from datamodules.sources.source import Sample

LABELS = {"class_path": "datamodules.modalities.label.Label", "init_args": {"classes": ["one", "two"]}}


def sample(**members):
    return Sample("k", members, "k")


def test_a_member_that_the_modality_refuses_drops_the_sample_for_its_reason():
    with pytest.raises(Reject, match=r"^unknown class$"):
        RefusedByModality(LABELS).examine(sample(cls=b"three"))


def test_a_member_that_it_takes_and_a_sample_without_one_are_kept():
    chosen = RefusedByModality(LABELS)
    assert chosen.examine(sample(cls=b"two")) is None
    assert chosen.examine(sample(txt=b"three")) is None


def test_it_reaches_worker_processes_and_the_manifest_as_plain_values():
    chosen = pickle.loads(pickle.dumps(RefusedByModality(LABELS)))
    assert chosen.examine(sample(cls=b"one")) is None
    assert describe(chosen)["init_args"] == {"modality": LABELS}


@pytest.mark.parametrize(
    ("modality", "message"),
    [
        ({}, "expected class_path"),
        ({"class_path": "nowhere.Imu"}, "cannot be built from nowhere.Imu"),
        ({**LABELS, "init_args": {}}, "cannot be built"),
    ],
)
def test_a_modality_that_cannot_be_built_is_refused_before_any_work(modality, message):
    with pytest.raises(ValueError, match=message):
        RefusedByModality(modality)

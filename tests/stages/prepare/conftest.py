"""Samples in memory, as the engine hands them to a step."""

import pytest

from datamodules.sources.source import Sample


@pytest.fixture
def samples(scenes):
    """The eleven scenes."""
    return [
        Sample(
            scene["__key__"],
            {name: data for name, data in scene.items() if name != "__key__"},
            scene["__key__"],
        )
        for scene in scenes
    ]


@pytest.fixture
def without():
    """A sample and names of members -> the sample without them."""

    def cut(sample, *names):
        members = {name: data for name, data in sample.members.items() if name not in names}
        return Sample(sample.key, members, sample.name)

    return cut

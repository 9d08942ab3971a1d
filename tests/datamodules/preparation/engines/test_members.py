"""Members that cannot be loaded."""

import pytest

from datamodules.preparation.cleaning.filter import Reject
from datamodules.preparation.engines.members import load
from datamodules.sources.source import Sample


def test_what_cannot_be_read_is_rejected(tmp_path):
    with pytest.raises(Reject, match="not UTF-8"):
        load(Sample("k", {"txt": b"caf\xe9"}, "k"))
    with pytest.raises(Reject, match="unreadable file"):
        load(Sample("k", {"jpg": tmp_path / "gone.jpg"}, "k"))

"""Strategies: what they refuse before anything is spread."""

from types import SimpleNamespace

import pytest

from stages.strategies import FlatSharded


def test_a_gradient_scaler_of_each_rank_is_refused_under_the_first_fsdp():
    with pytest.raises(ValueError, match=r"set trainer\.precision to bf16-mixed or 32-true"):
        FlatSharded().setup(SimpleNamespace(precision="16-mixed"))

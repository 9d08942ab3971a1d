"""CheckpointActivations: layers are computed again, or it says that there are none."""

import pytest
from lightning.pytorch import LightningModule
from torch import nn

from callbacks.activation_checkpointing import CheckpointActivations
from modules.projections import Projection


class Model(LightningModule):
    def __init__(self, part):
        super().__init__()
        self.part = part


def test_a_model_without_repeated_layers_is_refused_by_its_parts():
    with pytest.raises(ValueError, match=r"no repeated layers in Projection.*leave it out.*data\.batch_size"):
        CheckpointActivations().setup(None, Model(Projection(4, 2)), "fit")


def test_a_model_without_repeated_layers_can_be_validated():
    model = Model(Projection(4, 2))
    CheckpointActivations().setup(None, model, "validate")
    assert not any("forward" in vars(module) for module in model.modules())


def test_layers_are_computed_again():
    blocks = nn.ModuleList(nn.TransformerEncoderLayer(4, 2, 8) for _ in range(2))
    CheckpointActivations().setup(None, Model(blocks), "fit")
    assert all("forward" in vars(block) for block in blocks)

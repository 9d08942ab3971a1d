"""Spreading a model over ranks: what cannot be split is refused by name."""

import pytest
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from modules import adapters, parallel


@pytest.fixture
def mesh(tmp_path):
    """The mesh of one rank."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_a_model_with_an_adapter_is_not_split(language_model, mesh):
    adapted = adapters.adapt(language_model, {"peft_type": "LORA", "target_modules": ["q_proj"]})
    with pytest.raises(ValueError, match=r"as with an adapter .*set tensor_parallel_size to 1"):
        parallel.split_tensors(adapted, mesh)


def test_a_model_without_a_plan_is_not_split(image_encoder, mesh):
    with pytest.raises(ValueError, match="has a plan for none of the models"):
        parallel.split_tensors(image_encoder, mesh)

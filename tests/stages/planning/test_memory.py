"""Memory of a sharded step: what a plan says of it is what the allocator gives out, on one rank of several."""

import pytest
import torch
import torch.distributed as dist
from allocator import most_held
from torch.distributed.device_mesh import init_device_mesh
from torch.profiler import ProfilerActivity, profile
from torch.testing._internal.distributed.fake_pg import FakeStore

from datamodules.batch import Batch
from modules import collectives, parallel
from stages.planning.layout import Layout
from stages.planning.plan import plan
from stages.stage import Stage

RANKS = 4


class Sum(Stage):
    """A language model of six layers, whose features are to be small."""

    @property
    def input_configs(self) -> dict:
        return {}

    def __init__(self) -> None:
        from transformers import LlamaConfig, LlamaModel

        super().__init__()
        sizes = {
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
        }
        self.model = LlamaModel(LlamaConfig(vocab_size=2000, **sizes))

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        features = self.model(input_ids=batch.inputs["text"]["input_ids"], use_cache=False).last_hidden_state
        return {"square": features.float().square().mean()}

    def exports(self) -> dict:
        return {}


@pytest.fixture
def ranks():
    """The first of several ranks, the others of which are not there."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    yield init_device_mesh("cpu", (RANKS, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    collectives.use_group(None)
    dist.destroy_process_group()


def bytes_of(tensors) -> int:
    local = [tensor.to_local() if parallel.mesh_of(tensor) else tensor for tensor in tensors]
    return sum(tensor.numel() * tensor.element_size() for tensor in local)


@pytest.mark.parametrize("width", [torch.float32, torch.bfloat16])
def test_a_sharded_step_takes_what_the_plan_says(width, ranks):
    ids = torch.randint(0, 2000, (16, 64))
    batch = Batch({"text": {"input_ids": ids}}, {"text": torch.arange(16)}, [str(n) for n in range(16)])
    precision = "32-true" if width == torch.float32 else "bf16-true"
    with torch.device("meta"):
        stage = Sum()
    layout = Layout(RANKS, "Sharded", precision, 1, 10, zero=3)
    planned = plan(stage, batch, 64, layout)
    real = Sum().to(width)
    parallel.distribute(real, ranks, methods=["losses"])
    optimizer = torch.optim.AdamW(real.parameters())
    for _ in range(2):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            with torch.autocast("cpu", torch.bfloat16, enabled=layout.casts):
                loss = real.losses(batch)["square"]
            loss.backward()
        gradients = bytes_of(parameter.grad for parameter in real.parameters())
        optimizer.step()
        optimizer.zero_grad()
    states = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    weights = bytes_of(real.parameters())
    assert planned.memory["gradients"] == pytest.approx(gradients, rel=0.02)
    assert planned.memory["optimizer"] == pytest.approx(bytes_of(states), rel=0.02)
    assert planned.peak == pytest.approx(most_held(seen) + weights + bytes_of(states), rel=0.15)

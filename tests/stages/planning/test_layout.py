"""Layout: what a trainer's settings say of ranks and memory, for every trainer that is shipped."""

from pathlib import Path

import pytest
import torch
import yaml

from stages.planning import memory
from stages.planning.layout import Layout

TRAINERS = sorted((Path(__file__).parents[3] / "configs/trainer").glob("*.yaml"))
DEFAULTS = {
    "devices": "auto",
    "num_nodes": 1,
    "strategy": "auto",
    "precision": None,
    "accumulate_grad_batches": 1,
    "max_steps": 10,
    "callbacks": None,
}
KINDS = ("weights", "gradients", "optimizer")


def layout(trainer: str | None = None, **changes) -> Layout:
    """Return the layout of a shipped trainer, or of the default one, with changes."""
    files = {path.stem: path for path in TRAINERS}
    shipped = yaml.safe_load(files[trainer].read_text())["trainer"] if trainer else {}
    return Layout.of({**DEFAULTS, **shipped, **changes})


def llama(**changes) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.device("meta"):
        return LlamaModel(LlamaConfig(**{**sizes, "vocab_size": 100, **changes}))


@pytest.mark.parametrize("trainer", [path.stem for path in TRAINERS])
def test_every_shipped_trainer_is_read(trainer):
    devices = 1 if trainer in ("cpu", "gpu") else 4
    found = layout(trainer, devices=devices)
    assert found.ranks == devices
    assert found.zero == (3 if trainer in ("fsdp", "fsdp1", "hybrid", "tensor_parallel", "zero3") else 0)
    assert found.shards == {"hybrid": 2, "tensor_parallel": 2, "pipeline": 1}.get(trainer, devices)
    assert found.shares == {"tensor_parallel": 2, "pipeline": 1}.get(trainer, devices)
    assert found.checkpoints == (trainer == "checkpoint_activations")


@pytest.mark.parametrize("trainer", ["fsdp", "fsdp1", "zero3"])
def test_what_is_spread_is_divided_by_the_ranks(trainer):
    module = llama()
    one, four = (memory.held(module, layout(trainer, devices=devices)) for devices in (1, 4))
    for kind in KINDS:
        assert four[kind] == pytest.approx(one[kind] / 4, rel=0.01)
    assert "buckets of gradients" not in four


@pytest.mark.parametrize(
    "strategy, whole",
    [
        ("ddp", set(KINDS)),
        ("deepspeed_stage_1", {"weights", "gradients"}),
        ("deepspeed_stage_2", {"weights"}),
        ("deepspeed", {"weights"}),
        ("deepspeed_stage_3", set()),
    ],
)
def test_each_stage_of_zero_spreads_one_kind_more(strategy, whole):
    module = llama()
    one, four = (memory.held(module, layout(strategy=strategy, devices=devices)) for devices in (1, 4))
    assert {kind for kind in KINDS if four[kind] == one[kind]} == whole


def test_gradients_that_are_views_of_their_buckets_are_counted_once():
    module = llama()
    copied, viewed = memory.held(module, layout(devices=2)), memory.held(module, layout("ddp", devices=2))
    assert copied["buckets of gradients"] == copied["gradients"] == viewed["gradients"]
    assert "buckets of gradients" not in viewed


def test_ranks_that_split_products_share_their_samples_and_hold_a_part_of_each():
    module = llama(num_key_value_heads=2)
    found = layout("tensor_parallel", devices=4)
    assert found.shares == found.shards == 2
    layers = sum(parameter.numel() for parameter in module.layers.parameters() if parameter.ndim == 2)
    rest = sum(parameter.numel() for parameter in module.parameters()) - layers
    assert memory.held(module, found)["gradients"] == 4 * (layers // 4 + rest // 2)


def test_attention_and_perceptron_are_what_is_divided():
    found = memory.divided(llama(num_key_value_heads=2), layout("tensor_parallel", devices=2))
    assert [type(module).__name__ for module in found] == ["LlamaAttention", "LlamaMLP"] * 2


def test_layers_with_an_adapter_are_not_split():
    module = llama()
    module.layers[0].self_attn.q_proj = torch.nn.Sequential(module.layers[0].self_attn.q_proj)
    with pytest.raises(ValueError, match="not plain ones, as with an adapter"):
        memory.held(module, layout("tensor_parallel", devices=2))


def test_what_is_in_no_layer_is_whole_during_the_step():
    module, found = llama(), layout("fsdp", devices=4)
    layer = sum(parameter.numel() for parameter in module.layers[0].parameters())
    rest = 100 * 32 + 32  # embeddings, and the norm behind the layers
    assert memory.Gathering(module, found).weights == 4 * (rest + 2 * layer)


def test_gradients_are_whole_until_they_are_sent():
    module, found = llama(), layout("fsdp", devices=4)
    moments = [(parameter, 0) for parameter in reversed(list(module.parameters()))]
    layer = sum(parameter.numel() for parameter in module.layers[0].parameters())
    gathering = memory.Gathering(module, found)
    gradients, most = gathering.backward(moments, accumulates=False)
    assert gradients == 4 * (
        32 + 2 * layer
    )  # of the norm behind them, and one layer's while the other's are sent
    assert most > gathering.weights
    assert gathering.backward(moments, accumulates=True)[1] > most


def test_deepspeed_keeps_weights_of_32_bits_with_the_optimiser():
    module = llama().to(torch.bfloat16)
    found = memory.held(module, layout("zero3", devices=1))
    assert found["optimizer"] == 6 * found["gradients"]


def test_what_is_offloaded_is_named():
    assert layout(strategy="deepspeed_stage_2_offload").offloaded == ("optimizer",)
    assert set(layout(strategy="fsdp_cpu_offload").offloaded) == set(KINDS)


def test_a_number_of_devices_that_is_not_said_is_noted():
    found = layout("tensor_parallel", devices="auto")
    assert found.ranks == 2 or torch.cuda.is_available()
    assert "trainer.devices is auto" in found.notes[0]
    assert not layout(devices="0,1").notes
    assert layout(devices="0,1").ranks == layout(devices=[0, 1]).ranks == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"devices": "many"}, "a plan needs their number"),
        ({"devices": 0}, "a plan needs their number"),
        ({"strategy": "fdsp"}, "expected one of"),
        ({"trainer": "tensor_parallel", "devices": 3}, "does not divide the 3 ranks"),
        ({"trainer": "fsdp1", "devices": 2, "precision": "16-mixed"}, "scale float16 gradients"),
        ({"trainer": "pipeline", "devices": 2, "precision": "16-mixed"}, "scale float16 gradients"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        layout(**changes)

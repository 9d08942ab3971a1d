"""Spreading a model over ranks: what cannot be split is refused by name; layers computed twice give the same."""

import copy

import pytest
import torch
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


def test_layers_computed_twice_keep_less_and_give_the_same_gradient(text_inputs, tokenizer_path):
    from modules.encoders.huggingface import TextEncoder

    config = {"model_type": "bert", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3}
    plain = TextEncoder(config=config, tokenizer=tokenizer_path, max_tokens=16).train()
    twice = copy.deepcopy(plain)
    parallel.checkpoint_activations(twice)
    assert twice.state_dict().keys() == plain.state_dict().keys()
    kept = {}
    for name, encoder in (("plain", plain), ("twice", twice)):
        held = []
        torch.manual_seed(0)  # of the dropout, which must drop the same when a layer is computed again
        with torch.autograd.graph.saved_tensors_hooks(lambda x, held=held: held.append(x) or x, lambda x: x):
            loss = encoder(text_inputs).features.square().sum()
        loss.backward()
        kept[name] = sum(tensor.numel() for tensor in held)
    assert kept["twice"] < kept["plain"] / 3
    for (name, one), other in zip(plain.named_parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0, msg=name)

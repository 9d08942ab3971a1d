"""Spreading a model over ranks: what cannot be split is refused by name; layers computed twice give the same."""

import copy
import os
import shutil

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from modules import adapters, parallel, parts
from modules.card import tensors_of
from modules.projections import Projection


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


@pytest.mark.parametrize("is_bfloat16", [False, True])
def test_layers_computed_twice_keep_less_and_give_the_same_gradient(is_bfloat16, text_inputs, tokenizer_path):
    from modules.encoders.huggingface import TextEncoder

    config = {
        "model_type": "bert",
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "attention_probs_dropout_prob": 0.0,  # with it, attention has one kernel alone
    }
    plain = TextEncoder(config=config, tokenizer=tokenizer_path, max_tokens=16).train()
    twice = copy.deepcopy(plain)
    parallel.checkpoint_activations(twice)
    assert twice.state_dict().keys() == plain.state_dict().keys()
    kept = {}
    for name, encoder in (("plain", plain), ("twice", twice)):
        held = []
        torch.manual_seed(0)  # of the dropout, which must drop the same when a layer is computed again
        with (
            torch.autograd.graph.saved_tensors_hooks(lambda x, held=held: held.append(x) or x, lambda x: x),
            torch.autocast("cpu", torch.bfloat16, enabled=is_bfloat16),
        ):
            loss = encoder(text_inputs).features.square().sum()
        loss.backward()
        kept[name] = sum(tensor.numel() for tensor in held)
    assert kept["twice"] < kept["plain"] / 3
    for (name, one), other in zip(plain.named_parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0, msg=name)


class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = Projection(8, 4), Projection(6, 4)


def of_fsdp1(model):
    return parallel.shard_flat(model, init_device_mesh("cpu", (2,)), torch.device("cpu"))


def of_zero3(model):
    os.environ |= {"DS_ACCELERATOR": "cpu", "RANK": str(dist.get_rank()), "LOCAL_RANK": str(dist.get_rank())}
    os.environ["WORLD_SIZE"] = "2"
    import deepspeed

    zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
    }
    deepspeed.init_distributed("gloo")
    return deepspeed.initialize(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), config=config
    )[0]


def put_together(spread):
    """The tensors of a part before it is spread and put together, and what share of the model a rank has between."""
    model = Two()
    size = sum(parameter.numel() for parameter in model.parameters())
    before = {name: tensor.clone() for name, tensor in tensors_of(model.first).items()}
    card = parts.describe(model.first)
    wrapped = spread(model)
    share = sum(parameter.numel() for parameter in model.parameters()) / size
    with parallel.gathered(wrapped):
        after = {name: tensor.clone() for name, tensor in tensors_of(model.first).items()}
        is_described = parts.describe(model.first) == card
    return before, share, after, is_described


def by_fsdp1(rank):
    return put_together(of_fsdp1)


def by_zero3(rank):
    return put_together(of_zero3)


@pytest.mark.parametrize("spread", [by_fsdp1, pytest.param(by_zero3, marks=pytest.mark.slow)])
def test_what_older_strategies_spread_is_put_together(spread, on_two_ranks):
    if spread is by_zero3 and not shutil.which("c++"):
        pytest.skip("DeepSpeed builds its collectives for CPUs with a C++ compiler, and there is none")
    for before, share, after, is_described in on_two_ranks(spread):
        assert share < 0.6
        assert is_described
        assert list(after) == list(before)
        for name, tensor in before.items():
            torch.testing.assert_close(after[name], tensor, rtol=0, atol=0)


def halved():
    """A model whose weights have 16 bits but for its norms', and rows for two ranks."""
    torch.manual_seed(0)
    blocks = [
        torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.Linear(8, 8, dtype=torch.bfloat16))
        for _ in range(2)
    ]
    model = torch.nn.Sequential(torch.nn.Sequential(*blocks), torch.nn.LayerNorm(8))
    return model, torch.randn(4, 8)


def gradients_of(model, rows):
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(rows).square().mean()
    loss.backward()
    return {name: parallel.whole(parameter.grad) for name, parameter in model.named_parameters()}


def by_fsdp2_in_16_bits(rank):
    model, rows = halved()
    mesh = init_device_mesh("cpu", (2,))
    parallel.shard(model, mesh, mesh.get_group(), [])
    return gradients_of(model, rows[2 * rank : 2 * rank + 2])


def by_fsdp1_in_16_bits(rank):
    model, rows = halved()
    model = parallel.shard_flat(model, init_device_mesh("cpu", (2,)), torch.device("cpu"))
    gradients_of(model, rows[2 * rank : 2 * rank + 2])
    with parallel.gathered(model, with_gradients=True):
        return {
            parallel.plain_name(name): parameter.grad.clone() for name, parameter in model.named_parameters()
        }


@pytest.mark.parametrize("spread", [by_fsdp2_in_16_bits, by_fsdp1_in_16_bits])
def test_norms_in_32_bits_are_trained_beside_sharded_weights_in_16(spread, on_two_ranks):
    expected = gradients_of(*halved())
    for found in on_two_ranks(spread):
        assert {name: value.dtype for name, value in found.items()} == {
            name: value.dtype for name, value in expected.items()
        }
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=2e-2, atol=2e-3, msg=name)

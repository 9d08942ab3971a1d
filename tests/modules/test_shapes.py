"""Shapes: a step on shapes alone computes what the real one does, and counts the memory that it takes."""

from collections.abc import Callable

import pytest
import torch
from allocator import most_held
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from modules.shapes import Shapes, ShapesError

BERT = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2}


def bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(BertConfig(vocab_size=500, **BERT))


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(vocab_size=500, **BERT))


def loss(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    logits = model(input_ids=ids, attention_mask=mask.long()).logits
    return cross_entropy(logits[mask].float(), ids[mask])  # how many rows there are depends on the mask


def text() -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([40, 3, 17, 29])
    return torch.randint(0, 500, (4, 40)), torch.arange(40) < lengths[:, None]


def real_peak(model: nn.Module, ids: Tensor, mask: Tensor, dtype: torch.dtype | None) -> int:
    """Return the most bytes that the allocator gave out at once during a step, beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            found = loss(model, ids, mask)
        found.backward()
    return most_held(seen)


def shapes_peak(build: Callable[[], nn.Module], ids: Tensor, mask: Tensor, dtype: torch.dtype | None) -> int:
    shapes = Shapes()
    with torch.device("meta"):
        counted = build()
    shapes.on_shapes(counted)
    before = shapes.bytes
    with shapes:
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            found = loss(counted, ids, mask)
        found.backward()
    assert found.shape == ()
    assert all(parameter.grad.shape == parameter.shape for parameter in counted.parameters())
    return shapes.peak_bytes - before


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bf16-mixed"])
@pytest.mark.parametrize("build", [bert, llama])
def test_the_peak_is_within_a_tenth_of_what_the_allocator_gives_out(build, dtype):
    torch.manual_seed(0)
    ids, mask = text()
    expected = real_peak(build(), ids, mask, dtype)
    assert shapes_peak(build, ids, mask, dtype) == pytest.approx(expected, rel=0.1)


def test_what_is_no_longer_needed_is_not_counted():
    shapes = Shapes()
    with shapes:
        kept = shapes.empty((10, 10)) + 1
        for _ in range(5):
            _ = kept * 2
    del _
    assert shapes.bytes == 400
    assert shapes.peak_bytes < 6 * 400


def test_masks_stay_real_and_say_how_many_rows_there_are():
    shapes = Shapes()
    mask = torch.tensor([True, False, True])
    with shapes:
        assert shapes.empty((3, 5))[mask].shape == (2, 5)
        assert mask.nonzero().tolist() == [[0], [2]]


def test_tied_weights_stay_tied_and_count_once():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

    shapes = Shapes()
    with torch.device("meta"):
        module = shapes.on_shapes(Tied())
    assert module.first.weight is module.second.weight
    assert shapes.bytes == 64


def test_a_mask_that_is_computed_keeps_all():
    shapes = Shapes()
    with shapes:
        values = shapes.empty((4, 3))
        mask = values[:, 0] > 0
        assert values[mask].shape == (4, 3)
        assert values.masked_select(values > 0).shape == (12,)
        assert mask.nonzero().tolist() == [[0], [1], [2], [3]]
        assert torch.bincount(values.argmax(1), minlength=5).shape == (5,)


def test_a_check_of_computed_numbers_is_passed():
    with Shapes() as shapes:
        assert torch.isfinite(shapes.empty((4, 3))).all()


def test_masks_that_are_the_same_whatever_the_numbers_stay_real():
    with Shapes() as shapes:
        numbers = shapes.empty((2, 3)).argmax(1)
        assert torch.ones_like(numbers, dtype=torch.bool).nonzero().tolist() == [[0], [1]]
        assert numbers.new_full((2,), 7).tolist() == [7, 7]


@pytest.mark.parametrize(
    "step", [lambda values: values.unique(), lambda values: values.sum().item(), lambda values: values[0, 0].tolist()]
)  # fmt: skip
def test_rows_that_only_a_real_step_knows_are_refused_with_what_to_do(step):
    with Shapes() as shapes, pytest.raises(ShapesError, match=r"--trainer\.max_steps 2"):
        step(shapes.empty((4, 3)))

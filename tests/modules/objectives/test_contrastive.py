"""Contrastive objectives: equal to open_clip's on any number of ranks, in tiles, blind to rows that lack a modality."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from modules.objectives.aligned import Aligned
from modules.objectives.contrastive import InfoNCE, SigLIP
from modules.objectives.contrastive_tiles import PairwiseSigmoid, SymmetricCrossEntropy

OBJECTIVES = [InfoNCE, SigLIP]


def unit(rows, dim=8, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=1).to(dtype).requires_grad_()


def everyone(count):
    return torch.arange(count)


def judge(objective, embeddings, rows, size):
    return objective(Aligned(embeddings, rows, size, tokens={}))


def open_clip_loss():
    """Load open_clip's file of losses by itself: the package around it takes seconds to import."""
    folder = importlib.util.find_spec("open_clip").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("open_clip_loss", Path(folder) / "loss.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def theirs_for(objective, first, second, rank=0, world_size=1):
    loss = open_clip_loss()
    if isinstance(objective, InfoNCE):
        clip = loss.ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=world_size)
        return clip(first, second, objective.scale())
    return loss.SigLipLoss(rank=rank, world_size=world_size)(
        first, second, objective.scale(), objective.logit_bias
    )


def pair_loss(objective, first, second):
    rows = {"image": everyone(len(first)), "text": everyone(len(second))}
    return judge(objective, {"image": first, "text": second}, rows, len(first))["image_text"]


def parameters(objective):
    return [objective.logit_scale] + ([objective.logit_bias] if isinstance(objective, SigLIP) else [])


def relative(ours, theirs):
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_equals_open_clip_in_value_and_gradients(objective, dtype):
    first, second = unit(300, 64, 1, dtype), unit(300, 64, 2, dtype)
    ours = objective(tile=128).to(dtype)
    wanted = [first, second, *parameters(ours)]
    loss = pair_loss(ours, first, second)
    theirs = theirs_for(ours, first, second)
    assert loss.dtype == dtype
    assert relative(loss, theirs) < 1e-6
    for mine, other in zip(
        torch.autograd.grad(loss, wanted), torch.autograd.grad(theirs, wanted), strict=True
    ):
        assert relative(mine, other) < 1e-6


@pytest.mark.parametrize("tile", [1, 3, 100])
def test_gradients_are_those_of_finite_differences(tile):
    first, second = unit(5, 3, 1), unit(5, 3, 2)
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, b, s: SymmetricCrossEntropy.apply(a, b, s, [5], tile), (first, second, scale)
    )
    assert torch.autograd.gradcheck(
        lambda a, b, s, c: PairwiseSigmoid.apply(a, b, s, c, [5], tile), (first, second, scale, bias)
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("tile", [1, 7, 16, 33, 64])
def test_the_tile_does_not_change_the_loss(objective, tile):
    first, second = unit(33, seed=1), unit(33, seed=2)
    losses = [pair_loss(objective(tile=size).double(), first, second) for size in (tile, 1000)]
    torch.testing.assert_close(losses[0], losses[1])
    gradients = [torch.autograd.grad(loss, (first, second)) for loss in losses]
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_order_of_the_batch_does_not_change_the_loss(objective):
    first, second, order = unit(20, seed=1), unit(20, seed=2), torch.randperm(20)
    loss = objective(tile=6).double()
    torch.testing.assert_close(pair_loss(loss, first, second), pair_loss(loss, first[order], second[order]))
    shuffled = {"image": order, "text": everyone(20)}
    by_rows = judge(loss, {"image": first[order], "text": second}, shuffled, 20)["image_text"]
    torch.testing.assert_close(by_rows, pair_loss(loss, first, second))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_rows_that_lack_a_modality_leave_the_logits(objective):
    image, text = unit(6, seed=1), unit(5, seed=2)
    rows = {"image": torch.tensor([0, 1, 2, 4, 5, 7]), "text": torch.tensor([0, 2, 3, 4, 6])}
    loss = objective(tile=2).double()
    losses = judge(loss, {"image": image, "text": text}, rows, 8)
    both = pair_loss(loss, image[[0, 2, 3]], text[[0, 1, 3]])
    torch.testing.assert_close(losses["image_text"], both)
    losses["image_text"].backward()
    assert (image.grad[[1, 4, 5]] == 0).all() and (image.grad[[0, 2, 3]] != 0).any(1).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_samples_without_any_modality_do_not_change_the_loss(objective):
    first, second = unit(6, seed=1), unit(6, seed=2)
    loss = objective().double()
    rows = {"image": everyone(6) * 3, "text": everyone(6) * 3}
    padded = judge(loss, {"image": first, "text": second}, rows, 40)["image_text"]
    torch.testing.assert_close(padded, pair_loss(loss, first, second))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_pair_of_modalities_has_a_loss_and_an_absent_one_gives_zero_with_a_gradient(objective):
    vectors = {"image": unit(4, seed=1), "text": unit(4, seed=2), "audio": unit(0), "video": unit(1, seed=3)}
    rows = {"image": everyone(4), "text": everyone(4), "audio": everyone(0), "video": everyone(1)}
    losses = judge(objective().double(), vectors, rows, 4)
    assert sorted(losses) == [
        "audio_image",
        "audio_text",
        "audio_video",
        "image_text",
        "image_video",
        "text_video",
    ]
    assert losses["audio_image"] == 0
    sum(losses.values()).backward()
    assert vectors["audio"].grad is not None
    assert all(tensor.grad.isfinite().all() for tensor in vectors.values())


def test_one_matched_pair_alone_has_nothing_to_be_told_from():
    first, second = unit(1, seed=1), unit(1, seed=2)
    loss = pair_loss(InfoNCE().double(), first, second)
    loss.backward()
    assert loss == 0 and (first.grad == 0).all()


def test_a_loss_near_zero_keeps_its_digits():
    """In float32 1 - softmax would be rounded away: there are e^-40 parts of doubt."""
    vectors = torch.eye(4, 8).requires_grad_()
    loss = pair_loss(InfoNCE(init_logit_scale=40.0), vectors, vectors.detach().clone())
    assert loss.item() == pytest.approx(3 * math.exp(-40), rel=1e-5)
    loss.backward()
    assert vectors.grad[0, 0].item() == pytest.approx(-40 * 3 * math.exp(-40) / 4, rel=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_autocast_does_not_round_the_logits(objective):
    first, second = unit(50, 32, 1, torch.float32), unit(50, 32, 2, torch.float32)
    loss = objective()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = pair_loss(loss, first, second)
    assert rounded.dtype == torch.float32
    assert rounded == pair_loss(loss, first, second)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_bfloat16_vectors_are_summed_in_float32(objective):
    first, second = unit(50, 32, 1, torch.bfloat16), unit(50, 32, 2, torch.bfloat16)
    loss = pair_loss(objective(), first, second)
    exact = pair_loss(objective(), first.detach().float(), second.detach().float())
    torch.testing.assert_close(loss, exact)
    loss.backward()
    assert first.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_nothing_as_large_as_batch_by_batch_is_made(objective):
    """Counted by the tensors that autograd's dispatch sees; `benchmarks/contrastive.py` measures the process."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            result = function(*arguments, **(keywords or {}))
            if isinstance(result, torch.Tensor):
                self.size = max(self.size, result.numel())
            return result

    first, second = unit(256, 4, 1), unit(256, 4, 2)
    with Largest() as largest:
        pair_loss(objective(tile=16).double(), first, second).backward()
    assert largest.size <= 256 * 4


def test_the_scale_starts_and_stays_within_its_limits_and_can_come_down_again():
    loss = InfoNCE()
    assert loss.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    loss.logit_scale.data.fill_(10.0)
    assert loss.scale().item() == pytest.approx(100.0, rel=1e-6)
    # All negatives are closer than the positives: a smaller scale would do better.
    first = torch.eye(4)
    pair_loss(loss, first, first[[1, 2, 3, 0]]).backward()
    assert loss.logit_scale.grad > 0


def test_siglip_without_a_bias_trains_none():
    loss = SigLIP(init_logit_bias=None)
    pair_loss(loss, unit(4, seed=1, dtype=torch.float32), unit(4, seed=2, dtype=torch.float32)).backward()
    assert loss.logit_bias == 0 and loss.logit_bias.grad is None


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: judge(InfoNCE(), {"image": unit(2)}, {"image": everyone(2)}, 2), "needs two modalities"),
        (
            lambda: judge(
                InfoNCE(), {"a": unit(2, 3), "b": unit(2, 4)}, {"a": everyone(2), "b": everyone(2)}, 2
            ),
            "differ in width",
        ),
        (lambda: InfoNCE(init_logit_scale=200.0), "init_logit_scale is 200.0, expected from 1 to"),
        (lambda: SigLIP(tile=0), "tile is 0"),
    ],
)
def test_what_cannot_work_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# ---- two ranks, each a process of its own

UNEVEN = {"image": [7, 1], "text": [7, 1], "audio": [3, 0]}  # rows of each rank; audio is on rank 0 alone


@pytest.fixture(scope="module")
def ranks(on_two_ranks):
    """What two ranks made of all the cases: [of rank 0, of rank 1], by objective."""
    return on_two_ranks(on_one)


def on_one(rank):
    return {
        objective.__name__: {
            "even float32": even_on(rank, objective, torch.float32),
            "even float64": even_on(rank, objective, torch.float64),
            "uneven": uneven_on(rank, objective),
        }
        for objective in OBJECTIVES
    }


def even_on(rank, objective, dtype):
    """Return value and gradients, ours and open_clip's, of 40 rows a rank."""
    first, second = unit(40, 16, 10 + rank, dtype), unit(40, 16, 20 + rank, dtype)
    ours = objective(tile=24).to(dtype)
    results = {}
    for whose, loss in (
        ("ours", pair_loss(ours, first, second)),
        ("theirs", theirs_for(ours, first, second, rank, 2)),
    ):
        gradients = torch.autograd.grad(loss, [first, second, *parameters(ours)])
        results[whose] = [loss.detach(), *(gradient.clone() for gradient in gradients)]
    return results


def uneven_on(rank, objective):
    """Return losses and gradients of three modalities of which the ranks have different numbers of rows."""
    vectors = {}
    for seed, (name, counts) in enumerate(UNEVEN.items()):
        begin = sum(counts[:rank])
        vectors[name] = unit(sum(counts), seed=seed)[begin : begin + counts[rank]].detach().requires_grad_()
    return all_pairs(objective, vectors)


def all_pairs(objective, vectors):
    loss = objective(tile=3).double()
    losses = judge(loss, vectors, {name: everyone(len(rows)) for name, rows in vectors.items()}, 8)
    sum(losses.values()).backward()
    gradients = {name: rows.grad for name, rows in vectors.items()}
    return {
        "losses": {name: value.detach() for name, value in losses.items()},
        "gradients": gradients,
        "parameters": [parameter.grad for parameter in parameters(loss)],
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("objective", ["InfoNCE", "SigLIP"])
def test_two_ranks_equal_open_clip_on_two_ranks(objective, dtype, ranks):
    results = [rank[objective][f"even {dtype}"] for rank in ranks]
    # open_clip's value and parameters are of a rank's own rows, which DDP averages; ours are of all rows already.
    averaged = [(one + two) / 2 for one, two in zip(*(result["theirs"] for result in results), strict=True)]
    for result in results:
        value, for_first, for_second, *for_parameters = result["ours"]
        assert relative(value, averaged[0]) < 1e-6
        assert relative(for_first, result["theirs"][1]) < 1e-6
        assert relative(for_second, result["theirs"][2]) < 1e-6
        for mine, theirs in zip(for_parameters, averaged[3:], strict=True):
            assert relative(mine, theirs) < 1e-6


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_uneven_ranks_equal_one_rank_with_all_rows(objective, ranks):
    alone = all_pairs(objective, {n: unit(sum(c), seed=seed) for seed, (n, c) in enumerate(UNEVEN.items())})
    results = [rank[objective.__name__]["uneven"] for rank in ranks]
    for result in results:
        torch.testing.assert_close(result["losses"], alone["losses"])
        torch.testing.assert_close(result["parameters"], alone["parameters"])
    for name, gradient in alone["gradients"].items():
        joined = torch.cat([result["gradients"][name] for result in results])
        torch.testing.assert_close(joined, 2 * gradient)  # DDP's average over two ranks takes the factor back

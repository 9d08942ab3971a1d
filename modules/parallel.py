"""How a model is spread over ranks: sharded (FSDP2), split by tensors, and both; and how it is put together again."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from modules import collectives
from modules.attention import alike

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
STYLES = ("colwise", "rowwise")
HALVES = (torch.bfloat16, torch.float16)


def layers(module: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks of a model, such as the layers of a transformer: what its lists hold, inner first."""
    lists = [child for child in module.modules() if isinstance(child, (nn.ModuleList, nn.Sequential))]
    blocks = [block for each in lists for block in each]
    return [
        block for block in reversed(blocks) if not isinstance(block, CONTAINERS) and any(block.children())
    ]


def checkpoint_activations(module: nn.Module) -> int:
    """Keep a layer's input alone, and compute the layer again in the backward; names of parameters stay.

    Where layers hold layers, it is the inner ones.

    Returns:
        The number of layers that are computed again.
    """
    blocks = layers(module)
    inner = [
        layer
        for layer in blocks
        if not any(child in blocks for child in layer.modules() if child is not layer)
    ]
    for layer in inner:
        again = partial(checkpoint, layer.forward, use_reentrant=False, context_fn=alike)
        layer.forward = again  # type: ignore[method-assign]
    return len(inner)


def distribute(module: nn.Module, mesh: DeviceMesh, methods: Iterable[str]) -> None:
    """Split layers over `tensor_parallel` ranks, then shard all over `data_parallel` ranks, or over some of them.

    Args:
        module: what is trained.
        mesh: with the dimensions `data_parallel` and `tensor_parallel`, as Lightning's ModelParallelStrategy makes it;
            or with `replicate` and `shard`, which together are `data_parallel`: shards of as many copies of the model.
        methods: of the module, that training calls as others call `forward`.

    Raises:
        ValueError: when tensors are to be split and no layer says how.
    """
    tensor, data = mesh["tensor_parallel"], mesh["data_parallel"]
    collectives.use_group(data.get_group())
    if tensor.size() > 1:
        split_tensors(module, tensor)
    if data.size() > 1:
        names = mesh.mesh_dim_names or ()
        spread = mesh["replicate", "shard"] if "replicate" in names else data
        shard(module, spread, data.get_group(), methods)


def shard(module: nn.Module, mesh: DeviceMesh, group: ProcessGroup, methods: Iterable[str]) -> None:
    """Shard a model over the last dimension of a mesh: a layer is whole only while it computes, all else in the step.

    Where the mesh has two dimensions, gradients are averaged over the first: each of its places has a whole copy.
    FSDP2 shards no scalars (a logit scale, a gate), and puts together tensors of one width at a time, so neither are
    norms in 32 bits sharded beside weights in 16: every rank holds them, and their gradients are averaged.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    kept = _kept(module, group)
    for layer in layers(module):
        fully_shard(layer, mesh=mesh, ignored_params=kept)
    fully_shard(module, mesh=mesh, ignored_params=kept)
    for method in methods:
        register_fsdp_forward_method(module, method)


def shard_flat(module: nn.Module, mesh: DeviceMesh, device: torch.device) -> nn.Module:
    """Return a model in the wrapper of the first FSDP: each layer's weights are one vector, spread over all ranks.

    What `shard` keeps on every rank stays so here: a vector is of one width, and takes no scalars.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import CustomPolicy

    blocks = set(layers(module))
    return FullyShardedDataParallel(
        module,
        auto_wrap_policy=CustomPolicy(lambda child: child in blocks),
        ignored_states=list(_kept(module, mesh.get_group())),
        device_mesh=mesh,
        device_id=device,
        use_orig_params=True,
    )


def is_flat(module: nn.Module) -> bool:
    """Return whether the first FSDP has wrapped a module or some of its layers."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    return any(isinstance(child, FullyShardedDataParallel) for child in module.modules())


def plain_name(name: str) -> str:
    """Return the name that a parameter had before the first FSDP wrapped the modules it is in."""
    return name.replace("_fsdp_wrapped_module.", "")


def split_tensors(module: nn.Module, mesh: DeviceMesh) -> None:
    """Split the products of transformers' models over ranks, by the plan that the library has for each.

    What has no plan (an image tower, a projection) is computed by every rank of the group alike.

    Raises:
        ValueError: as `tensor_plans` does.
    """
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    styles: dict[str, Callable[[], object]] = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
    for model, plan in tensor_plans(module, mesh.size()):
        parallelize_module(model, mesh, {name: styles[style]() for name, style in plan.items()})


def tensor_plans(module: nn.Module, ranks: int) -> list[tuple[nn.Module, dict[str, str]]]:
    """Return transformers' models within a module, with how products are split: names, with `*`, to STYLES.

    Raises:
        ValueError: when no model has a plan, its attention heads do not divide by the ranks, or it has an adapter.
    """
    from transformers import PreTrainedModel

    found = []
    for child in list(module.modules()):
        if not isinstance(child, PreTrainedModel) or child is not child.base_model:
            continue
        plan = {
            name: style for name, style in (child.config.base_model_tp_plan or {}).items() if style in STYLES
        }
        if not plan:
            continue
        heads = child.config.num_key_value_heads
        if heads % ranks:
            raise ValueError(
                f"{type(child).__name__} has {heads} key-value heads, which do not divide by "
                f"tensor_parallel_size {ranks}: expected a divisor"
            )
        for layer in planned_layers(child, plan):
            if not isinstance(layer, (nn.Linear, nn.Embedding)):
                raise ValueError(
                    f"tensor_parallel_size is {ranks}, but layers of {type(child).__name__} that would be split are "
                    f"not plain ones, as with an adapter ({type(layer).__name__}): set tensor_parallel_size to 1, "
                    "which shards them"
                )
        found.append((child, plan))
    if not found:
        raise ValueError(
            f"tensor_parallel_size is {ranks}, but transformers has a plan for none of the models: expected one "
            "such as Llama, Mistral or Qwen; for others set tensor_parallel_size to 1 and shard them"
        )
    return found


def planned_layers(model: nn.Module, plan: Iterable[str]) -> list[nn.Module]:
    """Return the layers of a model that a plan's names, with `*` for any one word, stand for."""
    return [
        layer
        for name, layer in model.named_modules()
        if any(name.count(".") == each.count(".") and fnmatch(name, each) for each in plan)
    ]


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients so that their norm over all ranks is at most `max_norm`; return what it was.

    Parameters may be spread in different ways, over which no one function of torch adds up.
    """
    by_mesh: dict[object, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_mesh.setdefault(mesh_of(parameter), []).append(parameter.grad)
    if not by_mesh:
        return torch.zeros(())  # of a step that is left out
    norms = [whole(torch.nn.utils.get_total_norm(gradients)) for gradients in by_mesh.values()]
    total = torch.stack(norms).norm()
    scale = (max_norm / (total + 1e-6)).clamp(max=1)
    for gradients in by_mesh.values():
        for gradient in gradients:
            gradient.mul_(scale)
    return total


def mesh_of(tensor: Tensor) -> DeviceMesh | None:
    """Return the ranks that a tensor is spread over, None where every rank has it whole."""
    return tensor.device_mesh if isinstance(tensor, DTensor) else None


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor put together from its ranks; all of them must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def gathered(model: nn.Module, with_gradients: bool = False) -> Iterator[None]:
    """Have every parameter whole on every rank for a while, where the older FSDP or DeepSpeed's ZeRO-3 spread them.

    What FSDP2 and tensor parallel spread is put together one tensor at a time (`whole`).

    Args:
        model: as the strategy has wrapped it.
        with_gradients: whether the first FSDP's gradients are put together as well.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel

    of_deepspeed = [parameter for parameter in model.parameters() if "ds_id" in vars(parameter)]
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model, writeback=False, with_grads=with_gradients):
            yield
    elif of_deepspeed:
        import deepspeed

        with deepspeed.zero.GatheredParameters(of_deepspeed):
            yield
    else:
        yield


def _kept(module: nn.Module, group: ProcessGroup) -> set[nn.Parameter]:
    """Return what every rank holds: scalars, and vectors of 32 bits beside weights of 16; have gradients averaged."""
    kept = {parameter for parameter in module.parameters() if parameter.ndim == 0}
    if any(parameter.dtype in HALVES for parameter in module.parameters()):
        kept |= {each for each in module.parameters() if each.ndim == 1 and each.dtype == torch.float32}
    for parameter in kept:
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(partial(_average, group))
    return kept


def _average(group: ProcessGroup, parameter: Tensor) -> None:
    assert parameter.grad is not None
    torch.distributed.all_reduce(parameter.grad, group=group)
    parameter.grad /= group.size()

"""Memory: what of a model and its training each rank holds, by how the run is spread."""

from collections.abc import Callable, Iterable
from itertools import pairwise

from torch import nn

from modules import parallel
from stages.layout import Layout

STATES = 2
"""Of AdamW, for each trained number: running averages of the gradient and of its square, as wide as the weight."""
MASTER_BYTES = 12
"""Of DeepSpeed's, for each weight of 16 bits: both averages and the weight itself in float32."""


def held(module: nn.Module, layout: Layout) -> dict[str, int]:
    """Return the bytes on the fullest rank of what is there throughout a step, by kind.

    Args:
        module: with parameters as wide as in the run.
        layout: how it is spread.

    Raises:
        ValueError: when the model cannot be spread in that way, in the words of the run.
    """
    split = _split(module, layout)
    elsewhere = _on_other_ranks(module, layout.pipeline) if layout.pipeline else set()
    here = [parameter for parameter in module.parameters() if parameter not in elsewhere]
    trained = [parameter for parameter in here if parameter.requires_grad]

    def total(parameters: Iterable[nn.Parameter], level: int, size: Callable[[nn.Parameter], int]) -> int:
        return sum(
            _share(each, layout.shards if layout.zero >= level else 1, each in split, layout) * size(each)
            for each in parameters
        )

    has_masters = layout.is_deepspeed and layout.has_half_weights
    found = {
        "weights": total(here, 3, lambda each: each.element_size())
        + sum(buffer.numel() * buffer.element_size() for buffer in module.buffers()),
        "gradients": total(trained, 2, lambda each: each.element_size()),
        "optimizer": total(
            trained, 1, lambda each: MASTER_BYTES if has_masters else STATES * each.element_size()
        ),
    }
    if layout.has_buckets:
        found["buckets of gradients"] = found["gradients"]
    return found


def gathered(module: nn.Module, layout: Layout) -> dict[str, int]:
    """Return the bytes of spread weights that are whole for a while, and of gradients before they are spread."""
    split = _split(module, layout)

    def total(parameters: Iterable[nn.Parameter]) -> int:
        return sum(_share(each, 1, each in split, layout) * each.element_size() for each in parameters)

    if not layout.by_layer:
        return {
            "gathered weights": total(module.parameters()),
            "gathered gradients": total(each for each in module.parameters() if each.requires_grad),
        }
    root, groups = _groups(module)
    sizes = [(total(group), total(each for each in group if each.requires_grad)) for group in groups]
    # Of layers, the one that computes and the one that is fetched meanwhile, or whose gradient is being sent; all that
    # is in no layer is whole from the first use to the end of the backward.
    return {
        "gathered weights": total(root) + 2 * max((weights for weights, _ in sizes), default=0),
        "gathered gradients": total(each for each in root if each.requires_grad)
        + 2 * max((gradients for _, gradients in sizes), default=0),
    }


def divided(module: nn.Module, layout: Layout) -> list[nn.Module]:
    """Return the modules whose work ranks that share a batch divide among them; all else each of them does."""
    if layout.pipeline > 1:
        from modules.pipeline import dividable_layers  # costs a second

        return list(dividable_layers(module, layout.pipeline))
    if layout.tensor_parallel == 1:
        return []
    # With its products an attention, or a perceptron, is split in whole.
    return [
        child
        for model, plan in parallel.tensor_plans(module, layout.tensor_parallel)
        for layers in [set(parallel.planned_layers(model, plan))]
        for child in model.modules()
        if not layers.isdisjoint(child.children())
    ]


def _share(parameter: nn.Parameter, shards: int, is_split: bool, layout: Layout) -> int:
    """Return how many numbers of a parameter the first rank holds: FSDP2 spreads rows, and no scalars."""
    count = parameter.numel() // (layout.tensor_parallel if is_split else 1)
    if shards == 1 or not parameter.ndim:
        return count
    rows = parameter.shape[0]
    return min(count, -(-rows // shards) * count // max(1, rows))


def _groups(module: nn.Module) -> tuple[list[nn.Parameter], list[list[nn.Parameter]]]:
    """Return the parameters outside all layers, and those of each layer, with those of the layers around it."""
    layers, owners = parallel.layers(module), {}
    for number, layer in enumerate(layers):  # inner first
        for parameter in layer.parameters():
            owners.setdefault(parameter, number)
    own = [
        [parameter for parameter in each.parameters() if owners[parameter] == n]
        for n, each in enumerate(layers)
    ]
    around = [
        [own[outer] for outer, each in enumerate(layers) if any(child is layer for child in each.modules())]
        for layer in layers
    ]  # a layer itself is among its modules
    root = [parameter for parameter in module.parameters() if parameter not in owners]
    return root, [[parameter for group in groups for parameter in group] for groups in around]


def _split(module: nn.Module, layout: Layout) -> set[nn.Parameter]:
    """Return the parameters whose products are split over ranks that share a batch."""
    if layout.tensor_parallel == 1:
        return set()
    return {
        parameter
        for model, plan in parallel.tensor_plans(module, layout.tensor_parallel)
        for layer in parallel.planned_layers(model, plan)
        for parameter in layer.parameters()
    }


def _on_other_ranks(module: nn.Module, ranks: int) -> set[nn.Parameter]:
    """Return the parameters in layers that a pipeline has on other ranks than the fullest.

    Raises:
        ValueError: when its layers cannot be divided.
    """
    from modules.pipeline import dividable_layers  # costs a second

    layers = list(dividable_layers(module, ranks))
    bounds = [len(layers) * number // ranks for number in range(ranks + 1)]
    sizes = [sum(p.numel() for layer in layers[a:b] for p in layer.parameters()) for a, b in pairwise(bounds)]
    fullest = max(range(ranks), key=sizes.__getitem__)
    return {
        parameter
        for number, layer in enumerate(layers)
        if not bounds[fullest] <= number < bounds[fullest + 1]
        for parameter in layer.parameters()
    }

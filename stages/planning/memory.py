"""Memory: what of a model and its training each rank holds, by how the run is spread."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from torch import nn

from modules import parallel
from stages.planning.layout import Layout

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


class Gathering:
    """How spread weights are whole for a while in a step, and gradients before they are spread.

    FSDP2 puts a layer together while it computes, and fetches the next meanwhile; all that is in no layer is whole from
    the first use to the end of the backward, and its gradients are until then, when they are sent.

    Args:
        module: what is spread.
        layout: how.
    """

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        split = _split(module, layout)
        layers = parallel.layers(module) if layout.by_layer else []
        self.owners: dict[nn.Parameter, int] = {}
        for number, layer in enumerate(layers):  # inner first
            for parameter in layer.parameters():
                self.owners.setdefault(parameter, number)
        self.sizes, self.shares = (
            {
                each: _share(each, n, each in split, layout) * each.element_size()
                for each in module.parameters()
            }
            for n in (1, layout.shards)
        )
        self.weights = sum(size for each, size in self.sizes.items() if each not in self.owners)
        self.weights += 2 * max(
            (sum(map(self.sizes.__getitem__, layer.parameters())) for layer in layers), default=0
        )

    def backward(self, moments: Sequence[tuple[nn.Parameter, int]], accumulates: bool) -> tuple[int, int]:
        """Follow a backward pass.

        Args:
            moments: parameters in the order in which their gradients are found, with the bytes of activations then.
            accumulates: whether there are gradients of earlier batches.

        Returns:
            The most bytes of gradients that are not spread yet; and of those, of spread gradients, gathered weights
            and activations together.
        """
        left = Counter(self.owners.get(parameter) for parameter, _ in moments)
        whole: Counter[int | None] = Counter()
        sent = sum(self.shares[each] for each, _ in moments) if accumulates else 0
        sending = most = most_gradients = 0
        for parameter, activations in moments:
            owner = self.owners.get(parameter)
            whole[owner] += self.sizes[parameter]
            left[owner] -= 1
            gradients, weights = sum(whole.values()) + sending, self.weights
            if not left[owner] and owner is None:
                gradients += whole[None]  # a copy, to be sent when weights are spread again
                weights = 0
            most_gradients = max(most_gradients, gradients)
            most = max(most, gradients + sent + weights + activations)
            sent += 0 if accumulates else self.shares[parameter]
            if not left[owner] and owner is not None:
                sending = whole.pop(owner)  # until that of the next layer is
        return most_gradients, most


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

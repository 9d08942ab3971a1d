"""Pipeline: the layers of a language model divided over ranks, which a batch goes through in pieces."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from modules.language_model import LanguageModel
from modules.media_attention import MediaAttention
from modules.pipeline_pass import Given, Pass, Through, check_given

Key = TypeVar("Key", bound=Hashable)


def dividable_layers(module: nn.Module, ranks: int) -> nn.ModuleList:
    """Return the layers that a pipeline can divide.

    Raises:
        ValueError: when there is not one language model, or its layers cannot be computed on other ranks than the rest.
    """
    kind = type(module).__name__
    models = [child for child in module.modules() if isinstance(child, LanguageModel)]
    if len(models) != 1:
        raise ValueError(
            f"a pipeline divides the layers of one language model, {kind} has {len(models)}: "
            "take configs/trainer/ddp.yaml or fsdp.yaml"
        )
    model = models[0]
    if model.peft_adapter is not None:
        raise ValueError(
            "a pipeline divides no language model with an adapter: take configs/trainer/ddp.yaml or fsdp.yaml, which "
            "train adapters, or merge it first (python -m stages.merge)"
        )
    if any(isinstance(child, MediaAttention) for child in module.modules()):
        raise ValueError(
            "a pipeline divides no language model that looks at media from its layers (MediaAttention): take a "
            "Projector or a PerceiverResampler, or configs/trainer/fsdp.yaml"
        )
    if not model.model.config.base_model_pp_plan:
        raise ValueError(
            f"transformers has no pipeline plan for {type(model.model).__name__}: expected a model such as Llama, "
            "Mistral or Qwen; take configs/trainer/fsdp.yaml for others"
        )
    if len(model.layers) < ranks:
        raise ValueError(
            f"the language model has {len(model.layers)} layers, fewer than the {ranks} ranks of the pipeline: "
            "set trainer.strategy.init_args.size to at most as many"
        )
    return model.layers


class LayerPipeline:
    """The layers of a language model over ranks: each rank has its own, and a call of all computes them together.

    All ranks of a pipeline have the same batch, and compute alike what stands before and behind the layers. The call of
    the last layer sends the batch through all: forward in pieces without a graph (GPipe, arXiv:1811.06965), so that no
    activation is kept but the input; when its gradient is there, forward again and backward, one piece of each in turn
    (1F1B, arXiv:2104.04473, section 2.2). Parameters of other ranks' layers are on the meta device, under their names.
    The model's `state_dict` is whole on the first rank, and all ranks call it together; not so with `keep_vars`.

    Args:
        layers: as `dividable_layers` returns them.
        mesh: with the dimensions `data_parallel` and `pipeline`.
        microbatches: pieces of a batch, of equal size; fewer where it has fewer rows.
        device: of this rank.
    """

    def __init__(
        self, layers: nn.ModuleList, mesh: DeviceMesh, *, microbatches: int, device: torch.device
    ) -> None:
        self.layers, self.microbatches, self.device = layers, microbatches, device
        self.group, self.data_group = (mesh[name].get_group() for name in ("pipeline", "data_parallel"))
        self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)
        bounds = [len(layers) * number // self.size for number in range(self.size + 1)]
        self.own = range(bounds[self.rank], bounds[self.rank + 1])
        self.compute = {number: layers[number].forward for number in self.own}
        self.given: list[Given] = []
        for number, layer in enumerate(layers):
            if number not in self.own:
                _forget(layer)
            layer.forward = partial(self._layer, number)  # type: ignore[method-assign]
        # torch puts a mark on the hook, which a method does not take.
        layers.register_state_dict_post_hook(partial(self._complete))

    # ---- gradients

    def agree(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average gradients over batches, and give all ranks the first one's of what all compute alike.

        They may differ by rounding on a GPU, where sums have no fixed order, and the weights would part in time.
        """
        own, shared = self._split(parameters)
        samples = dist.get_world_size(self.data_group)
        for gradient in own + shared if samples > 1 else []:
            dist.all_reduce(gradient, group=self.data_group)
            gradient /= samples
        for gradient in shared:
            self.broadcast(gradient, 0)

    def clip_gradients(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """Scale gradients so that their norm over all layers is at most `max_norm`; return what it was."""
        own, shared = self._split(parameters)
        squares = torch.zeros((), device=self.device)
        if own:
            squares = squares + torch.nn.utils.get_total_norm(own).float() ** 2
        dist.all_reduce(squares, group=self.group)
        if shared:
            squares = squares + torch.nn.utils.get_total_norm(shared).float() ** 2
        total = squares.sqrt()
        scale = (max_norm / (total + 1e-6)).clamp(max=1)
        for gradient in own + shared:
            gradient.mul_(scale)
        return total

    def own_parameters(self) -> set[nn.Parameter]:
        """Return the parameters that this rank alone has."""
        return {parameter for number in self.own for parameter in self.layers[number].parameters()}

    @contextmanager
    def others_aside(self) -> Iterator[None]:
        """Take the layers of other ranks out of the model for as long as this lasts."""
        others = {number: layer for number, layer in enumerate(self.layers) if number not in self.own}
        for number in others:
            self.layers[number] = nn.Identity()
        try:
            yield
        finally:
            for number, layer in others.items():
                self.layers[number] = layer

    # ---- what is saved

    def gather(self, mine: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
        """Return on the first rank what the others give, on the CPU, and nothing elsewhere; all ranks call it."""
        about = {key: (tensor.shape, tensor.dtype) for key, tensor in mine.items()}
        everyone: list[dict[Key, tuple[torch.Size, torch.dtype]]] = [about] * self.size
        dist.all_gather_object(everyone, about, group=self.group)
        if self.rank:
            for tensor in mine.values():
                dist.send(tensor.detach().to(self.device).contiguous(), self._global(0), group=self.group)
            return {}
        found = {}
        for rank in range(1, self.size):
            for key, (shape, dtype) in everyone[rank].items():
                buffer = torch.empty(shape, dtype=dtype, device=self.device)
                dist.recv(buffer, self._global(rank), group=self.group)
                found[key] = buffer.cpu()
        return found

    def _complete(
        self, module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict[str, Any]
    ) -> None:
        if any(isinstance(value, nn.Parameter) for value in state.values()):
            return  # `keep_vars` asks for the parameters themselves, such as to see their shapes
        here = {number: dict(self.layers[number].named_parameters()) for number in self.own}
        names = [f"{prefix}{number}.{name}" for number, own in here.items() for name in own]
        state.update(self.gather({name: state[name] for name in names}))

    # ---- the way through the layers

    def _layer(self, number: int, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Take note of what a layer is called with; the last one has all compute."""
        if kwargs.get("past_key_values") is not None:
            raise ValueError(
                "a pipeline does not generate: its ranks keep no keys and values; load the parts that the run leaves"
            )
        check_given((args, kwargs))
        if number == 0:
            self.given = []
        self.given.append((args, kwargs))
        if number < len(self.layers) - 1:
            return hidden_states
        given, self.given = self.given, []
        if torch.is_grad_enabled() and not hidden_states.requires_grad:
            # Layers may train behind frozen embeddings.
            hidden_states = hidden_states.detach().requires_grad_()
        return Through.apply(hidden_states, Pass(self, given, hidden_states))

    def _split(self, parameters: Iterable[nn.Parameter]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the gradients of this rank's layers, and those of what all ranks have."""
        mine = self.own_parameters()
        with_gradient = [(each in mine, each.grad) for each in parameters if each.grad is not None]
        own, shared = ([g for is_mine, g in with_gradient if is_mine is wanted] for wanted in (True, False))
        return own, shared

    def broadcast(self, tensor: Tensor, source: int) -> Tensor:
        """Give all ranks of the pipeline what one of them has, in place, and return it."""
        dist.broadcast(tensor, self._global(source), group=self.group)
        return tensor

    def _global(self, rank: int) -> int:
        return dist.get_global_rank(self.group, rank)


def _forget(layer: nn.Module) -> None:
    """Free the weights of a layer that another rank computes; names, shapes and what is trained stay."""
    for module in layer.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            empty = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
            module.register_parameter(name, empty)

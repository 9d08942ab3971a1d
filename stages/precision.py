"""HalfWeights: weights of 16 bits, with which what must be exact is still computed in 32."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from lightning.pytorch.plugins import HalfPrecision
from torch import nn


class HalfWeights(HalfPrecision):
    """What `trainer.precision: bf16-true` (or `16-true`) means here: parameters, gradients and optimiser in 16 bits.

    Lightning's own rounds all else too: sound to eight bits before its spectrogram is made, filters and statistics that
    a module keeps, norms and losses. Here input and buffers stay as they are, and so do norms and scales, a thousandth
    of the weights, which torch does not compute beside statistics of another width; operations choose as under
    `bf16-mixed`.

    Args:
        precision: `bf16-true` or `16-true`.
        device_type: where it is computed, such as `cuda`.
    """

    def __init__(self, precision: Literal["bf16-true", "16-true"], device_type: str) -> None:
        super().__init__(precision)
        self.device_type = device_type

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Round matrices, and the vectors of modules that have some; those of norms and scales stay."""
        for child in module.modules():
            own = list(child.parameters(recurse=False))
            if any(parameter.ndim > 1 for parameter in own):
                for parameter in own:
                    if parameter.is_floating_point():
                        parameter.data = parameter.data.to(self._desired_input_dtype)
        return module

    def tensor_init_context(self) -> AbstractContextManager[None]:
        return nullcontext()

    def forward_context(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device_type, self._desired_input_dtype)

    def convert_input(self, data: Any) -> Any:
        return data

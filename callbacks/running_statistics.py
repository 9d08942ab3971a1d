"""RunningStatistics: those of the norms that a run trains, taken back where a step is skipped, on the device."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class RunningStatistics:
    """Running means, variances and counts of a module's norms, as they were before a step.

    A forward pass has moved them before it is known that its step is skipped. They are kept side by side in one tensor
    for each dtype, so that keeping and taking back cost a few kernels each, whatever the number of norms, and nothing
    waits for the device. A model without such norms, or whose norms are frozen, costs nothing.

    Args:
        module: where it will stay, on its device.
    """

    def __init__(self, module: nn.Module) -> None:
        self.groups: dict[torch.dtype, list[Tensor]] = {}
        for norm in module.modules():
            if isinstance(norm, _NormBase) and norm.running_mean is not None and not is_frozen(norm):
                for buffer in norm.buffers(recurse=False):
                    self.groups.setdefault(buffer.dtype, []).append(buffer)
        self.kept: dict[torch.dtype, Tensor] = {}

    @property
    def floats(self) -> list[Tensor]:
        """Means and variances, which a batch with infinity or NaN spoils."""
        return [buffer for dtype, group in self.groups.items() if dtype.is_floating_point for buffer in group]

    def keep(self) -> None:
        """Remember them; to be called before a step's first forward pass."""
        self.kept = {dtype: _joined(group) for dtype, group in self.groups.items()}

    def take_back(self, bad: Tensor) -> None:
        """Make them what was remembered where `bad`, a scalar on their device, is not 0."""
        for dtype, group in self.groups.items():
            right = torch.where(bad != 0, self.kept[dtype], _joined(group))
            pieces = right.split([buffer.numel() for buffer in group])
            shaped = [piece.view_as(buffer) for piece, buffer in zip(pieces, group, strict=True)]
            torch._foreach_copy_(group, shaped)


def is_frozen(module: nn.Module) -> bool:
    """Return whether a module has parameters and none of them is trained, so that its statistics stay still."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _joined(group: list[Tensor]) -> Tensor:
    return torch.cat([buffer.reshape(-1) for buffer in group])

"""Agreement: numbers that all ranks add up, one step behind, so that no rank waits for another."""

import torch
import torch.distributed as dist

from modules.collectives import all_ranks


class Agreement:
    """Sums over ranks of a few numbers, on the CPU and beside the training's own collectives.

    What a rank gives at one call, all ranks get at the next. So all of them act at the same step, whatever moment a
    signal reached each at, and neither the host nor the accelerator waits. One process has its answer at once.

    Args:
        size: how many numbers.
    """

    def __init__(self, size: int) -> None:
        self.is_alone = all_ranks()[1] == 1
        self.group = None if self.is_alone else dist.new_group(backend="gloo")
        self.pending = torch.zeros(size)
        self.work: dist.Work | None = None

    def sums(self, *numbers: float) -> list[float]:
        """Return the sums of what the ranks gave at the call before, and give this rank's; all ranks call it."""
        if self.is_alone:
            return list(numbers)
        if self.work is not None:
            self.work.wait()
        agreed = self.pending.tolist()
        self.pending = torch.tensor(numbers)
        self.work = dist.all_reduce(self.pending, group=self.group, async_op=True)
        return agreed

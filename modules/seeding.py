"""Seeding torch anew many times in a run, without what `torch.manual_seed` keeps of each."""

import torch


def seed_torch(number: int, device: torch.device) -> None:
    """Seed the generators of the CPU and, where it has one, of the device in use.

    `torch.manual_seed` seeds every GPU, and while none is in use it notes each call, and where it came from, for later.

    Args:
        number: the seed.
        device: this process's.
    """
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)

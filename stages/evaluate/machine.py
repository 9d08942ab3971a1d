"""Where an evaluation runs and what it took."""

import platform
import resource
from importlib.metadata import version

import torch


def device() -> torch.device:
    """Return the accelerator where there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def peak_memory_bytes() -> int:
    """Return the most memory this process had: of the accelerator where there is one, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def versions() -> dict[str, str]:
    """Return the versions that the figures were made with."""
    packages = ("torch", "torchmetrics", "transformers", "lightning", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}

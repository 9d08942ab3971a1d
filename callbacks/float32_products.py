"""Float32Products: products of matrices in float32 at full speed on AMD's CPUs."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

WIDE = 192


class Float32Products(Callback):
    """While fitting on a CPU whose AVX-512 Intel's MKL leaves unused, let oneDNN multiply; everywhere else do nothing.

    torch multiplies in float32 by MKL, which runs at half speed on AMD's CPUs with AVX-512, and in lower precision by
    oneDNN. The setting "medium" allows oneDNN for float32 and would allow it to round to bfloat16, which it does only
    with AMX, an extension of other CPUs: that nothing is rounded is looked at before it is relied on. Small products
    are left to MKL, which begins them sooner: whole steps by oneDNN took 1.9 times its CPU time at width 32, 1.1 at
    128, 0.9 at 256.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.before = torch.get_float32_matmul_precision()
        is_asked = stage == "fit" and trainer.strategy.root_device.type == "cpu" and self.before == "highest"
        if is_asked and is_wide(pl_module):
            use_onednn_if_faster()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        torch.set_float32_matmul_precision(self.before)


def is_wide(module: nn.Module) -> bool:
    """Return whether most weights are in matrices of at least `WIDE` rows and columns."""
    matrices = [parameter for parameter in module.parameters() if parameter.ndim == 2]
    wide = sum(matrix.numel() for matrix in matrices if min(matrix.shape) >= WIDE)
    return 2 * wide > sum(matrix.numel() for matrix in matrices)


def use_onednn_if_faster() -> bool:
    """Let oneDNN multiply in float32 where that is faster and as exact; return whether it does now."""
    if not mkl_is_slow():
        return False
    torch.set_float32_matmul_precision("medium")
    if is_exact():
        return True
    torch.set_float32_matmul_precision("highest")
    return False


def mkl_is_slow(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether torch multiplies by MKL on a CPU of AMD with AVX-512 (and without AMX)."""
    if not torch.backends.mkl.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    told = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    return "AuthenticAMD" in told and "amx_" not in told


def is_exact() -> bool:
    """Return whether a product in float32 has float32's digits now: rounding to bfloat16 would leave three."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 256, generator=generator) for _ in range(2))
    expected = left.double() @ right.double()
    return bool((left @ right - expected).norm() < 1e-5 * expected.norm())

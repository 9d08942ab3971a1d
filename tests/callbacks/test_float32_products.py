"""Float32Products: only where MKL is slow, never with fewer digits, and not beyond the fit."""

from types import SimpleNamespace

import pytest
import torch

from callbacks import float32_products
from callbacks.float32_products import Float32Products, is_exact, mkl_is_slow

WIDE = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.Linear(256, 16))


@pytest.fixture(autouse=True)
def as_it_was():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def trainer(device="cpu"):
    return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)))


@pytest.mark.parametrize(
    ("told", "is_slow"),
    [
        ("vendor_id : AuthenticAMD\nflags : avx512f avx512_bf16", True),
        ("vendor_id : AuthenticAMD\nflags : avx512f amx_bf16", False),
        ("vendor_id : GenuineIntel\nflags : avx512f", False),
    ],
)
def test_only_mkl_on_amd_without_amx_is_slow(told, is_slow, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(told)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert mkl_is_slow(tmp_path / "cpuinfo") is is_slow
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not mkl_is_slow(tmp_path / "cpuinfo")
    assert not mkl_is_slow(tmp_path / "absent")


def test_products_keep_their_digits_whatever_is_chosen(monkeypatch):
    monkeypatch.setattr(float32_products, "mkl_is_slow", lambda: True)
    assert is_exact()
    Float32Products().setup(trainer(), WIDE, "fit")
    assert is_exact()


def test_a_setting_that_rounds_is_taken_back(monkeypatch):
    monkeypatch.setattr(float32_products, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(float32_products, "is_exact", lambda: False)
    Float32Products().setup(trainer(), WIDE, "fit")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(("device", "stage"), [("cpu", "validate"), ("cuda", "fit")])
def test_nothing_changes_beside_a_fit_on_a_cpu(device, stage, monkeypatch):
    monkeypatch.setattr(float32_products, "use_onednn_if_faster", lambda: pytest.fail("asked"))
    Float32Products().setup(trainer(device), WIDE, stage)


def test_small_products_are_left_to_mkl(monkeypatch):
    monkeypatch.setattr(float32_products, "mkl_is_slow", lambda: True)
    small = torch.nn.Sequential(torch.nn.Embedding(5000, 64), torch.nn.Linear(64, 256))
    Float32Products().setup(trainer(), small, "fit")
    assert torch.get_float32_matmul_precision() == "highest"


def test_what_a_user_has_set_stays_and_the_fit_leaves_it_as_it_was(monkeypatch):
    monkeypatch.setattr(float32_products, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(float32_products, "is_exact", lambda: True)
    torch.set_float32_matmul_precision("high")
    callback = Float32Products()
    callback.setup(trainer(), WIDE, "fit")
    assert torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision("highest")
    callback.setup(trainer(), WIDE, "fit")
    assert torch.get_float32_matmul_precision() == "medium"
    callback.teardown(trainer(), WIDE, "fit")
    assert torch.get_float32_matmul_precision() == "highest"

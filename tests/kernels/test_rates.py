"""Which devices are slow in float64, and float32 without TF32."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import pytest
import torch

from mergery.kernels import rates
from mergery.kernels.rates import full_rate, slow_in_float64, whole_float32


@pytest.fixture(autouse=True)
def _forgotten():
    full_rate.cache_clear()
    yield
    full_rate.cache_clear()


@pytest.mark.parametrize(
    ("capability", "full"),
    [
        ((6, 0), True),  # P100
        ((6, 1), False),  # GTX 10
        ((7, 0), True),  # V100
        ((7, 5), False),  # RTX 20, T4
        ((8, 0), True),  # A100
        ((8, 6), False),  # RTX 30, A10, A40
        ((8, 9), False),  # RTX 40, L4, L40
        ((9, 0), True),  # H100, H200
        ((10, 0), True),  # B200
        ((10, 3), False),  # B300
        ((12, 0), False),  # RTX 50
        ((99, 9), False),  # none that is known: float32 is right on all
    ],
)
def test_it_is_the_capability_that_decides(capability, full, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert full_rate(torch.device("cuda:0")) is full


@pytest.mark.parametrize(
    ("name", "full"), [("gfx90a:sramecc+:xnack-", True), ("gfx942", True), ("gfx1100", False), ("gfx900", False)]
)
def test_of_amd_it_is_the_architecture(name, full, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.2")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(gcnArchName=name))
    assert full_rate(torch.device("cuda:0")) is full


def test_processors_are_not_and_apples_gpus_are():
    assert not slow_in_float64(torch.zeros(1))
    assert not full_rate(torch.device("mps"))


@pytest.fixture
def precision():
    """torch's setting, as a program may have left it, put back."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("word", ["highest", "high", "medium"])
def test_tf32_is_off_inside_and_as_it_was_behind(word, precision):
    torch.set_float32_matmul_precision(word)
    with whole_float32():
        assert torch.get_float32_matmul_precision() == "highest"
        with whole_float32():
            pass
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == word


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="before torch 2.9")
def test_in_the_newer_way_to_say_it_too(precision):
    products = torch.backends.cuda.matmul
    products.fp32_precision = "tf32"
    with whole_float32():
        assert products.fp32_precision == "ieee"
    assert products.fp32_precision == "tf32"


def test_an_error_puts_it_back(precision):
    torch.set_float32_matmul_precision("high")
    with pytest.raises(ZeroDivisionError), whole_float32():
        _ = 1 / 0
    assert torch.get_float32_matmul_precision() == "high"


def test_while_one_thread_is_inside_no_other_puts_it_back(precision):
    torch.set_float32_matmul_precision("high")
    entered, left = Barrier(2, timeout=60), Barrier(2, timeout=60)

    def first() -> None:
        with whole_float32():
            entered.wait()
        left.wait()

    def second() -> str:
        with whole_float32():
            entered.wait()
            left.wait()
            return torch.get_float32_matmul_precision()

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.submit(first), pool.submit(second)
        assert other.result() == "highest"
        one.result()
    assert torch.get_float32_matmul_precision() == "high"
    assert not rates._watch().inside

"""Devices that are slow in float64, and float32 that is what its name says.

GPUs made for data centres compute in float64 at half the rate of float32; all others at 1/32 to 1/64 of it, and Apple's not at
all. There linear algebra is done in float32, where that holds what counts (`mergery.kernels.ways`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from threading import Lock

import torch
from torch import Tensor

FULL = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}  # compute capabilities of NVIDIA's with float64 at half the rate
FULL_AMD = {"gfx906", "gfx908", "gfx90a", "gfx940", "gfx941", "gfx942", "gfx950"}  # the same of AMD's, by architecture


def slow_in_float64(tensor: Tensor) -> bool:
    """Whether the device of a tensor is. What decides is the device and not a measurement, so that a machine makes the same
    bytes each time.
    """
    return not full_rate(tensor.device)


@cache
def full_rate(device: torch.device) -> bool:
    """Whether float64 is at half the rate of float32 at least; on processors it is."""
    if device.type != "cuda":
        return device.type == "cpu"
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.partition(":")[0] in FULL_AMD
    return torch.cuda.get_device_capability(device) in FULL


@contextmanager
def whole_float32() -> Iterator[None]:
    """In here GPUs multiply float32 with all its 24 bits, whatever the program allows them elsewhere: TF32 keeps 11."""
    watch = _watch()
    watch.enter()
    try:
        yield
    finally:
        watch.leave()


class _Watch:
    """torch has one such setting for all threads: the first that asks changes it, the last that leaves puts it back, in the one
    of torch's two ways to say it in which it was said.
    """

    def __init__(self) -> None:
        self.lock, self.inside = Lock(), 0
        self.found: tuple[Callable[[str], None], str] | None = None

    def enter(self) -> None:
        with self.lock:
            if not self.inside:
                self.found = self.change()
            self.inside += 1

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside and self.found is not None:
                put, word = self.found
                put(word)

    def change(self) -> tuple[Callable[[str], None], str] | None:
        """Change it, and say how to put back what it was; None where nothing had to change."""
        try:
            word, best = torch.get_float32_matmul_precision(), "highest"
            put: Callable[[str], None] = torch.set_float32_matmul_precision
        except RuntimeError:  # it was said in the way of torch 2.9
            products = torch.backends.cuda.matmul
            word, best = str(products.fp32_precision), "ieee"
            put = partial(setattr, products, "fp32_precision")
        if word == best:
            return None
        put(best)
        return put, word


@cache
def _watch() -> _Watch:
    return _Watch()

"""Threads of torch beside those of the workers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_torch(*, load: bool) -> Iterator[None]:
    """The workers are our threads: torch, where it is loaded, keeps to one in each. `load` says to load it."""
    if load:
        importlib.import_module("torch")
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

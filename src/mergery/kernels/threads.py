"""Threads of torch and numpy beside those of the workers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@contextmanager
def quiet_torch(*, load: bool) -> Iterator[None]:
    """The workers are our threads: torch, where it is loaded, and the linear algebra of numpy and scipy keep to one in each.

    So the bytes do not depend on the number of threads either. `load` says to load torch.
    """
    if load:
        importlib.import_module("torch")
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _pools().limit(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)


@cache
def _pools() -> Any:
    """The thread pools of the libraries that are loaded."""
    import scipy.linalg.cython_lapack  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()

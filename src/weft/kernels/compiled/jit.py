"""How the kernels are compiled, and how the result is kept on disk."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

# Without fastmath, a product and a sum are two roundings.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def _load_lean() -> None:
    """Load numba's functions on arrays without scipy's linear algebra, for which they look only to know whether it is there.

    Loading that takes longer than numba itself; functions that need it load it when they are compiled.
    """
    name = "scipy.linalg.cython_blas"
    if name in sys.modules or "numba.np.arraymath" in sys.modules:
        return
    sys.modules[name] = None  # type: ignore[assignment]  # importing it fails
    try:
        arraymath: Any = importlib.import_module("numba.np.arraymath")
    finally:
        del sys.modules[name]
    arraymath._HAVE_BLAS = importlib.util.find_spec("scipy") is not None


_load_lean()


def _digest() -> str:
    """What the compiled code depends on: the sources of this package, and constants from outside."""
    here = Path(__file__).parent
    outside = (here.parent / "__init__.py", here.parent / "random.py", here.parent.parent / "dtypes.py")
    outside = (*outside, here.parent.parent / "methods" / "_exponential.py")
    total = hashlib.blake2b(digest_size=16)
    for path in (*sorted(here.glob("*.py")), *outside):
        total.update(path.read_bytes())
    return total.hexdigest()


SOURCES = _digest()


class _Cache(FunctionCache):
    """Numba's cache on disk watches one file; kernels call functions of others, so the key has them all."""

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), SOURCES)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a public function on first use; keep it on disk, beside the source or in the user's cache.

    Where neither can be written, each process compiles for itself.
    """
    dispatcher: Any = njit(**_OPTIONS)(function)
    with suppress(RuntimeError):
        dispatcher._cache = _Cache(function)
    return dispatcher


def inner(function: Callable[..., Any]) -> Any:
    """Compile a function that only kernels call.

    It must be defined at the top of a module: kernels that come from disk bring their own copies of it, and these
    are told apart by name. Two closures of one name would be taken for one function.
    """
    options = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return njit(**options)(function)

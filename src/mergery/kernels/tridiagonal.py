"""Eigenvectors of a symmetric matrix by way of a tridiagonal one, of which only those that are wanted are turned back.

Three steps of LAPACK: reflections make the matrix tridiagonal, divide and conquer solves that, and the reflections turn its
eigenvectors into the matrix's own. Numpy takes the same steps, but turns all vectors back, slowly, and takes as long in
float32 as in float64. LAPACK is scipy's, called as Cython calls it: scipy's functions for Python hold the interpreter's
lock meanwhile, so that workers would wait for each other.
"""

from __future__ import annotations

import ctypes
import importlib
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

LETTERS = {torch.float32: "s", torch.float64: "d"}  # with which the names of LAPACK's routines begin
PANEL = 64  # columns, at least as many as LAPACK reflects at once


def eigenvectors(matrix: Tensor, count: int | Callable[[Tensor], int]) -> tuple[Tensor, Tensor]:
    """All eigenvalues (n,), largest first, and the first eigenvectors (n, count) of a symmetric matrix (n, n), in its dtype.

    How many are wanted may also be told from the eigenvalues. The matrix is float32 or float64 and on the processor. Raises
    torch.linalg.LinAlgError where divide and conquer fails.
    """
    n, letter = matrix.shape[-1], LETTERS[matrix.dtype]
    size = scale(matrix)
    reflections = (matrix / size).contiguous()
    values, beside, factors = (matrix.new_zeros(n) for _ in range(3))
    call(f"{letter}sytrd", "L", n, reflections, n, values, beside, factors, matrix.new_empty(PANEL * n), PANEL * n)
    vectors, room, places = matrix.new_empty(n, n), 1 + 4 * n + n * n, 3 + 5 * n
    call(
        f"{letter}stedc", "I", n, values, beside, vectors, n,
        matrix.new_empty(room), room, torch.empty(places, dtype=torch.int32), places,
    )  # fmt: skip
    values = values.flip(0) * size
    count = count if isinstance(count, int) else count(values)
    # the columns of LAPACK's matrices are the rows of torch's
    wanted = vectors[n - count :].flip(0).mT
    del vectors
    if count:
        wanted[1:] = torch.ormqr(reflections.mT[1:, :-1], factors[:-1], wanted[1:])
    return values, wanted


def scale(matrix: Tensor) -> float:
    """The power of two just above the largest entry: divided by it, nothing is rounded and no square is lost."""
    largest = float(matrix.abs().max())
    return math.ldexp(1.0, math.frexp(largest)[1]) if largest > 0.0 else 1.0


def call(name: str, *arguments: str | int | Tensor) -> None:
    """A routine of LAPACK, all of whose arguments but the last, `info`, are given: tensors are read and written in place."""
    info = ctypes.c_int(0)
    given: list[Any] = [
        ctypes.c_void_p(each.data_ptr())
        if isinstance(each, Tensor)
        else ctypes.byref(ctypes.c_char(each.encode()) if isinstance(each, str) else ctypes.c_int(each))
        for each in arguments
    ]
    routine(name)(*given, ctypes.byref(info))
    if info.value:
        raise torch.linalg.LinAlgError(f"{name} gives {info.value}")  # pyright: ignore[reportPrivateImportUsage]


@cache
def routine(name: str) -> Callable[..., None]:
    """The routine of that name, which lets other threads run meanwhile."""
    capsule = importlib.import_module("scipy.linalg.cython_lapack").__pyx_capi__[name]
    named = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    return ctypes.CFUNCTYPE(None)(pointer(capsule, named(capsule)))

"""How memory is given back to the system."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

_MMAP_THRESHOLD = -3  # of glibc's mallopt
LARGE = 1 << 24  # bytes: of blocks below it, which every pass asks for again, giving them back costs more than it saves


@cache
def return_large_blocks() -> None:
    """Let blocks of 16 MB or more go back to the system as soon as they are freed; from now on, for the whole process.

    glibc comes to keep freed blocks of up to 32 MB, among which others are put that live longer: a process that reads one block
    of a model after the other grows by a matrix for each. Other C libraries are as they are.
    """
    mallopt = _mallopt()
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, LARGE)


def _mallopt() -> Any:
    try:
        return getattr(ctypes.CDLL(None), "mallopt", None)
    except (OSError, TypeError):  # there is no such library
        return None

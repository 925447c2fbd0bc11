"""What a kernel is made of, as bytes: by them its code is found on disk, wherever the kernel stands and whatever it imports.

A function counts with its instructions and constants, and with all that its globals stand for: functions that it calls,
numbers, tables. Comments and the names of files do not count, nor does what numpy and LLVM are made of: `objects.build`
tells their versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

_FOREIGN = ("builtins", "llvmlite", "math", "numba", "numpy")  # packages of which a name says enough


def content(function: Any) -> bytes:
    """All that a function is made of. Raises TypeError for a global that is described in other words in each process."""
    todo, lines = [function], []
    seen: dict[int, int] = {}  # functions, by identity: in which place they were met
    while todo:
        value = todo.pop()
        if id(value) in seen:
            lines.append(f"again {seen[id(value)]}")
            continue
        if isinstance(value, FunctionType) or hasattr(value, "made_of"):
            seen[id(value)] = len(seen)
        words, parts = _describe(value)
        lines.append(words)
        todo += parts
    return "\n".join(lines).encode()


def _describe(value: Any) -> tuple[str, list[Any]]:
    """One value in words, and the values that belong to it."""
    kind = type(value).__name__
    if hasattr(value, "made_of"):
        return kind, list(value.made_of)
    if isinstance(value, FunctionType) and not _foreign(value.__module__):
        return _describe_function(value)
    if isinstance(value, CodeType):
        return f"{kind} {value.co_code.hex()} {value.co_names} {value.co_varnames}", list(value.co_consts)
    if isinstance(value, (tuple, list)):
        return f"{kind} of {len(value)}", list(value)
    if isinstance(value, np.ndarray):
        return f"{kind} {value.dtype.str} {value.shape} {value.tobytes().hex()}", []
    if isinstance(value, (type, FunctionType)):
        return f"{value.__module__}.{value.__qualname__}", [getattr(value, "_fields", ())]
    words = value.__name__ if isinstance(value, ModuleType) else f"{kind} {value!r}"
    if " at 0x" in words or isinstance(value, (set, frozenset)):
        raise TypeError(f"a kernel cannot use {words}: it is written in other words in each process")
    return words, []


def _describe_function(function: FunctionType) -> tuple[str, list[Any]]:
    names = sorted(set(_names(function.__code__)))
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    used: dict[str, Any] = {}
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType) and not _foreign(value.__name__):
            used |= {f"{name}.{part}": vars(value)[part] for part in names if part in vars(value)}
        elif name in function.__globals__:
            used[name] = value
    return f"function of {' '.join(used)}", [function.__code__, function.__defaults__, cells, *used.values()]


def _names(code: CodeType) -> Iterator[str]:
    """The names of globals and attributes that a function looks up, or a function within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _foreign(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _FOREIGN

"""Kernels as functions of Python: compiled on first use, or taken from disk."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable
from functools import cached_property, update_wrapper
from inspect import Parameter, Signature
from pathlib import Path
from struct import Struct
from threading import Lock
from typing import Any

import numpy as np

from mergery.kernels import compiling
from mergery.kernels.compiled import objects
from mergery.kernels.compiled.content import content

# Without fastmath, a product and a sum are two roundings.
_OPTIONS = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

Kinds = tuple[str | tuple[str, int], ...]
"""Of each argument: int, float, or an array's dtype and number of dimensions."""


_MAKERS = b"".join(Path(file).read_bytes() for file in (__file__, objects.__file__))
"""The sources of what turns functions into code."""


class Inner:
    """A function that only kernels call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.made_of = (function,)

    @cached_property
    def dispatcher(self) -> Any:
        """What numba knows it as. Loads numba."""
        from numba import njit

        return njit(**_OPTIONS)(self._function)

    @property
    def _numba_type_(self) -> Any:
        """Where numba looks for the type of a global."""
        return self.dispatcher._numba_type_


class Emitted:
    """An operation that only kernels use, written in LLVM's instructions.

    emit: takes LLVM's builder and the operands, of arrays the address of their first entry, and gives the result.
    """

    def __init__(self, result: str, operands: tuple[str, ...], emit: Callable[..., Any]) -> None:
        self._result, self._operands, self._emit = result, operands, emit
        self.made_of = (result, operands, emit)

    @cached_property
    def _numba_type_(self) -> Any:
        """Where numba looks for the type of a global. Loads numba."""
        from numba import types
        from numba.core.registry import cpu_target
        from numba.extending import intrinsic

        def typed(_: Any, *given: Any) -> Any:
            kinds = [
                one if kind == "array" else getattr(types, kind)
                for kind, one in zip(self._operands, given, strict=True)
            ]
            return getattr(types, self._result)(*kinds), self._generate

        names = [f"operand{place}" for place in range(len(self._operands))]
        parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("context", *names)]
        typed.__signature__ = Signature(parameters)
        typed.__name__ = self._emit.__name__
        operation = intrinsic(typed)
        known: Any = cpu_target.typing_context
        known.refresh()
        return known.resolve_value_type(operation)

    def _generate(self, context: Any, builder: Any, signature: Any, values: Any) -> Any:
        operands = [
            context.make_array(kind)(context, builder, value).data if name == "array" else value
            for name, kind, value in zip(self._operands, signature.args, values, strict=True)
        ]
        result = self._emit(builder, *operands)
        return context.get_dummy_value() if result is None else result


class Kernel:
    """A compiled function of arrays, Python ints and floats, which gives a status. It releases the GIL.

    Arrays are C-contiguous, aligned and writeable. Code is made for the kinds of arguments of the first call, and again
    where others come. Raises TypeError for other arguments, MemoryError where a kernel finds no memory to work in.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        update_wrapper(self, function)
        self._function = function
        self._lock = Lock()
        self.made: dict[Kinds, Made] = {}

    def __call__(self, *arguments: Any) -> int:
        kinds: list[str | tuple[str, int]] = []
        words: list[Any] = []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                kinds.append((argument.dtype.char, argument.ndim))
                words += self._describe(argument)
            else:
                kinds.append(type(argument).__name__)
                words.append(argument)
        made = self.made.get(tuple(kinds)) or self._prepare(tuple(kinds))
        status = made.call(made.pack(*words))
        if status == objects.FAILED:
            raise MemoryError(f"the kernel {self._function.__name__} found no memory to work in")
        return status

    def _describe(self, array: np.ndarray) -> tuple[int, ...]:
        """An array as numba passes it: numbers of elements and bytes of one, address, shape, strides."""
        if not array.flags.carray:
            raise TypeError(f"{self._function.__name__} takes arrays that are contiguous, aligned and writeable")
        address = _address(array) if array.size else 0
        return (array.size, array.itemsize, address, *array.shape, *array.strides)

    def _prepare(self, kinds: Kinds) -> Made:
        with self._lock:
            if kinds not in self.made:
                name = self._name(kinds)
                code = objects.load(name)
                if code is None:
                    for tell in compiling:
                        tell(self._function.__name__)
                    data = self._compile(kinds)
                    objects.keep(name, data)
                    code = objects.Code(data)
                self.made[kinds] = Made(code, kinds)
            return self.made[kinds]

    def _name(self, kinds: Kinds) -> str:
        """What its code is kept under: by all that it is made of."""
        made_of = b"".join((_MAKERS, content(self._function), objects.build(), repr(kinds).encode()))
        total = hashlib.blake2b(made_of, digest_size=16).hexdigest()
        return f"{Path(self._function.__code__.co_filename).stem}.{self._function.__name__}-{total}.o"

    def _compile(self, kinds: Kinds) -> bytes:
        from numba import from_dtype, njit, types

        scalars = {"int": types.int64, "float": types.float64}
        if unknown := [kind for kind in kinds if isinstance(kind, str) and kind not in scalars]:
            raise TypeError(f"{self._function.__name__} takes arrays, ints and floats, no {unknown[0]}")
        signature = tuple(
            scalars[kind] if isinstance(kind, str) else types.Array(from_dtype(np.dtype(kind[0])), kind[1], "C")
            for kind in kinds
        )
        dispatcher: Any = njit(**_OPTIONS)(self._function)
        dispatcher.compile(signature)
        compiled = dispatcher.overloads[signature]
        assert compiled.signature.return_type == types.int64
        native = [word for kind in kinds for word in _native(kind)]
        return objects.make(dispatcher.inspect_llvm(signature), compiled.fndesc.llvm_func_name, native)


def _native(kind: str | tuple[str, int]) -> tuple[str, ...]:
    """An argument as numba passes it, in LLVM's types. An array has two owners, which ours has not, and sizes."""
    if isinstance(kind, str):
        return ("i64",) if kind == "int" else ("double",)
    return ("null", "null", "i64", "i64", "ptr", *["i64"] * (2 * kind[1]))


class Made:
    """What a kernel became for some kinds of arguments."""

    def __init__(self, code: objects.Code, kinds: Kinds) -> None:
        self._code = code
        words = [word for kind in kinds for word in _native(kind) if word != "null"]
        self.pack = Struct("".join("d" if word == "double" else "q" for word in words)).pack
        self.call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)(code.address)


def _address(array: Any) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(array))


def kernel(function: Callable[..., Any]) -> Kernel:
    """Compile a function on first use; keep it on disk."""
    return Kernel(function)


def inner(function: Callable[..., Any]) -> Any:
    """Compile a function into the kernels that call it."""
    return Inner(function)


def emitted(result: str, *operands: str) -> Callable[[Callable[..., Any]], Any]:
    """An operation of kernels: numba's names of what it gives and takes, or "array"; see `Emitted`."""
    return lambda emit: Emitted(result, operands, emit)

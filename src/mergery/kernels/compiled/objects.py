"""Machine code of the kernels: made once, kept on disk, and loaded without numba.

Numba takes longer to load than a small model takes to merge. So it only compiles: what it makes of a kernel is written as
an object file, beside the sources or in the user's cache, and LLVM alone (llvmlite) links that in the processes that follow.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

ENTRY = "mergery_kernel"
"""The name of the function in each object file: it takes the address of its arguments, 64 bits each, and gives a status."""

FAILED = -1
"""The status of a kernel that raised an error."""

_DIGEST = 16  # bytes, in front of the code: a damaged file is not run


class Code:
    """Machine code in memory: the address of its function, and what must live as long as that is called."""

    def __init__(self, data: bytes) -> None:
        _add_allocator()
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(data))
        self._engine.finalize_object()
        self.address: int = self._engine.get_function_address(ENTRY)


def make(assembly: str, function: str, types: list[str]) -> bytes:
    """The object file of a function that numba compiled to LLVM assembly, with all that it calls.

    types: of its arguments in LLVM's words, i64, double and ptr, or null where a null pointer is passed.
    Raises RuntimeError if it calls what nothing here provides.
    """
    module = llvm.parse_assembly(assembly + _entry(function, types))
    process = ctypes.CDLL(None)
    for called in (f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")):
        if called not in _add_allocator() and not hasattr(process, called):  # linking would end the process
            raise RuntimeError(f"{function} calls {called}, which is not there without numba")
    return _machine().emit_object(module)


def _entry(function: str, types: list[str]) -> str:
    """A function that unpacks the arguments of another. Numba's functions write a result, and give 0 if there is one."""
    lines, passed, word = [], ["ptr %status", "ptr %error"], 0
    for place, kind in enumerate(types):
        if kind == "null":
            passed.append("ptr null")
            continue
        lines.append(f"  %place{place} = getelementptr i64, ptr %words, i64 {word}")
        lines.append(f"  %value{place} = load {kind}, ptr %place{place}")
        passed.append(f"{kind} %value{place}")
        word += 1
    return "\n".join(
        [
            f"define i64 @{ENTRY}(ptr %words) {{",
            "  %status = alloca i64",
            "  %error = alloca ptr",
            *lines,
            f'  %code = call i32 @"{function}"({", ".join(passed)})',
            "  %failed = icmp ne i32 %code, 0",
            "  %found = load i64, ptr %status",
            f"  %result = select i1 %failed, i64 {FAILED}, i64 %found",
            "  ret i64 %result",
            "}",
        ]
    )


def load(name: str) -> Code | None:
    """What was kept under a name; None where there is nothing sound."""
    for folder in _folders():
        with suppress(OSError):
            data = (folder / name).read_bytes()
            if _sum(data[_DIGEST:]) == data[:_DIGEST]:
                return Code(data[_DIGEST:])
    return None


def keep(name: str, data: bytes) -> None:
    """Write an object file in the first folder that takes it. Where none does, each process compiles for itself."""
    for folder in _folders():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = folder / f".{name}.{os.getpid()}"
            try:
                unfinished.write_bytes(_sum(data) + data)
                unfinished.replace(folder / name)
            finally:
                unfinished.unlink(missing_ok=True)
            return


@cache
def build() -> bytes:
    """What machine code depends on beside its sources: the compilers, and the processor."""
    numba = importlib.util.find_spec("numba")
    places = numba.submodule_search_locations if numba is not None else None
    version = b"".join((Path(place) / "_version.py").read_bytes() for place in places or ())
    processor = f"{llvm.get_process_triple()} {llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    return version + f"{llvmlite.__version__} {processor}".encode()


def _sum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()


def _folders() -> Iterator[Path]:
    yield Path(__file__).parent / "__pycache__"
    with suppress(RuntimeError):  # no home
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mergery" / "kernels"


def _machine() -> Any:
    """This processor, as numba describes it to LLVM."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="static" if target.name.startswith("x86") else "default",
        codemodel="jitdefault",
        jit=True,
    )


@cache
def _add_allocator() -> list[str]:
    """Tell LLVM where numba's allocator is, which is an extension module of its own, without loading numba.

    Returns the names of its functions.
    """
    numba = importlib.util.find_spec("numba")
    folders = numba.submodule_search_locations if numba is not None else None
    spec = PathFinder.find_spec("_nrt_python", [str(Path(folder) / "core" / "runtime") for folder in folders or ()])
    assert spec is not None and spec.loader is not None, "numba has no allocator where it always was"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    functions = {name if name.startswith("_") else f"NRT_{name}": place for name, place in module.c_helpers.items()}
    for name, place in functions.items():
        llvm.add_symbol(name, place)
    return list(functions)

"""K-quants, which only llama.cpp itself makes: through its Python package, where that is installed."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Any

from mergery.checkpoints.gguf.imatrix import Imatrix
from mergery.errors import PlanError, did_you_mean
from mergery.planning.gguf import TYPES

FINER = (
    "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS",
    "IQ3_S", "IQ3_M",
)  # fmt: skip
"""Types that llama.cpp makes without an importance matrix."""
BY_IMPORTANCE = ("Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S")
"""Types that it makes with one alone."""


ERRORS = (3, 4)  # levels of ggml's messages, of one version or another


def require_llama_cpp(kind: str, *, imatrix: bool) -> Any:
    """The package. Raises PlanError for a type that nothing makes, or only with an importance matrix; where it is not here."""
    if kind not in (*FINER, *BY_IMPORTANCE):
        known = [each.lower() for each in (*TYPES, *FINER, *BY_IMPORTANCE)]
        raise PlanError(
            f"--type is {kind.lower()!r}", why="no such type is written", hint=did_you_mean(kind.lower(), known)
        )
    if kind in BY_IMPORTANCE and not imatrix:
        why = "with so few bits llama.cpp must know which columns count"
        raise PlanError(
            f"{kind.lower()} needs an importance matrix", why=why, hint="--imatrix STATISTICS or a file of llama.cpp"
        )
    try:
        import llama_cpp  # pyright: ignore[reportMissingImports]
    except ImportError:
        what, why = f"{kind.lower()} is made by llama.cpp alone", "its package llama-cpp-python is not here"
        hint = "pip install llama-cpp-python, which compiles it, or take q8_0, q5_1 or q4_1"
        raise PlanError(what, why=why, hint=hint) from None
    return llama_cpp


def quantise(source: Path, out: Path, kind: str, imatrix: Imatrix | None = None, *, threads: int = 0) -> None:
    """Make `out` of a file in 16 or 32 bits, which is removed. Raises PlanError where llama.cpp fails."""
    library = require_llama_cpp(kind, imatrix=imatrix is not None)
    params = library.llama_model_quantize_default_params()
    params.ftype = getattr(library, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.nthread = threads
    if imatrix is not None:
        held = [(name.encode(), imatrix.means(name)) for name in imatrix.entries]
        entry, floats = library.llama_model_imatrix_data, ctypes.POINTER(ctypes.c_float)
        entries = [entry(name, values.ctypes.data_as(floats), values.size) for name, values in held]
        params.imatrix = (entry * (len(entries) + 1))(*entries, entry(None, None, 0))  # the last one ends them
    partial = out.with_name(f"{out.name}.partial")
    said: list[str] = []

    @library.llama_log_callback
    def listen(level: int, text: bytes, _: Any) -> None:
        if level in ERRORS:
            said.append(text.decode("utf-8", "replace").strip())

    library.llama_log_set(listen, None)
    try:
        code = library.llama_model_quantize(os.fsencode(source), os.fsencode(partial), params)
        if code:
            raise PlanError(
                f"llama.cpp could not quantise {str(source)!r} to {kind.lower()}",
                why="; ".join(filter(None, said[-2:])) or f"its code is {code}",
                hint="look whether the disk is full; q8_0 needs no llama.cpp",
            )
        partial.replace(out)
    finally:
        library.llama_log_set(library.llama_log_callback(), None)  # as it was
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    source.unlink()

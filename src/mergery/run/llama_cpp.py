"""K-quants, which only llama.cpp itself makes: through its Python package, where that is installed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from mergery.errors import PlanError, did_you_mean
from mergery.planning.gguf import TYPES

FINER = (
    "Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS",
    "IQ3_S", "IQ3_M",
)  # fmt: skip
"""Types that llama.cpp makes without an importance matrix."""


def require_llama_cpp(kind: str) -> Any:
    """The package. Raises PlanError for a type that nothing makes, and where the package is missing."""
    if kind not in FINER:
        known = [each.lower() for each in (*TYPES, *FINER)]
        near = did_you_mean(kind.lower(), known)
        raise PlanError(f"--type is {kind.lower()!r}", why=f"these can be written: {', '.join(known)}", hint=near)
    try:
        import llama_cpp  # pyright: ignore[reportMissingImports]
    except ImportError:
        what, why = f"{kind.lower()} is made by llama.cpp alone", "its package llama-cpp-python is not here"
        hint = "pip install llama-cpp-python, which compiles it, or take q8_0, q5_1 or q4_1"
        raise PlanError(what, why=why, hint=hint) from None
    return llama_cpp


def quantise(source: Path, out: Path, kind: str) -> None:
    """Make `out` of a file in 16 or 32 bits, which is removed. Raises PlanError where llama.cpp fails."""
    library = require_llama_cpp(kind)
    params = library.llama_model_quantize_default_params()
    params.ftype = getattr(library, f"LLAMA_FTYPE_MOSTLY_{kind}")
    partial = out.with_name(f"{out.name}.partial")
    try:
        code = library.llama_model_quantize(os.fsencode(source), os.fsencode(partial), params)
        if code:
            raise PlanError(
                f"llama.cpp could not quantise {str(source)!r} to {kind.lower()}",
                why=f"its code is {code}",
                hint="look whether the disk is full; q8_0 needs no llama.cpp",
            )
        partial.replace(out)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    source.unlink()

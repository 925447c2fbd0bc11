"""Which kernels are used, and what loading and compiling them costs."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys

import numpy as np
import pytest

import weft.kernels
from tests.kernels.kernel_cases import consensus, count_high, count_low, gram, make, mix
from weft.errors import WeftError
from weft.kernels import compiled, kernels, readable

NAMES = ("mix", "agree", "convert", "gram", "masses", "count_high", "count_low")


def test_compiled_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEFT_KERNELS", raising=False)
    assert kernels() is compiled


def test_readable_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEFT_KERNELS", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("weft.kernels._find", weft.kernels._find.__wrapped__)  # without what it remembers
    assert kernels() is readable


@pytest.mark.parametrize(("word", "module"), [("compiled", compiled), ("readable", readable)])
def test_the_environment_overrides(monkeypatch: pytest.MonkeyPatch, word: str, module: object) -> None:
    monkeypatch.setenv("WEFT_KERNELS", word)
    assert kernels() is module


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_KERNELS", "fast")
    with pytest.raises(WeftError) as caught:
        kernels()
    assert str(caught.value) == ("WEFT_KERNELS is 'fast'\n  try: set it to compiled or readable, or unset it")


def test_the_package_loads_nothing_heavy() -> None:
    code = "import sys, weft.kernels; print([m for m in ('torch', 'numba', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_compiled_kernels_do_not_load_torch() -> None:
    code = "import sys, weft.kernels.compiled; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_the_compiled_kernels_do_not_load_scipy_and_leave_it_usable() -> None:
    pytest.importorskip("scipy.linalg.cython_blas")
    code = (
        "import sys, numpy as np, numba, weft.kernels.compiled\n"
        "print('scipy.linalg' in sys.modules)\n"
        "print(numba.njit(lambda a: np.dot(a, a)[0, 0])(np.ones((2, 2))), 'scipy.linalg' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "2.0", "True"]


@pytest.mark.parametrize("name", NAMES)
def test_both_modules_have_the_same_functions(name: str) -> None:
    ours, theirs = getattr(compiled, name), getattr(readable, name)
    assert list(inspect.signature(ours.py_func).parameters) == list(inspect.signature(theirs).parameters)
    assert "weft.kernels.readable" in ours.__doc__


def test_one_compilation_serves_all_calls() -> None:
    for has_base in (0, 1):
        case = make(0, "weights", [0, 1, 2, 3], 100, has_base)
        mix(compiled, case, np.ones((1, case.k), np.float32), 0)
        gram(compiled, case)
        count_high(compiled, case)
        count_low(compiled, case, np.zeros((case.k, 1), np.int64))
        compiled.convert(case.raw[0], 0, 100, np.empty(400, np.uint8), 2)
    consensus(0, 3, random=1).agree(compiled, case, 2, 0)
    consensus(0, 3).masses(compiled, case, 10)
    assert {name: len(getattr(compiled, name).signatures) for name in NAMES} == dict.fromkeys(NAMES, 1)


def test_the_cache_on_disk_knows_all_sources() -> None:
    from weft.kernels.compiled.jit import SOURCES

    mix(compiled, make(0, "weights", [0], 4, 0), np.ones((1, 1), np.float32), 0)
    (signature,) = compiled.mix.signatures
    assert SOURCES in compiled.mix._cache._index_key(signature, compiled.mix.targetctx.codegen())
    assert sum(compiled.mix.stats.cache_hits.values()) + sum(compiled.mix.stats.cache_misses.values()) == 1


def test_compiled_functions_have_names_of_their_own() -> None:
    """Kernels that come from disk share the functions they call by name: two closures of one name would be mixed up."""
    from numba.core.dispatcher import Dispatcher

    from weft.kernels.compiled import counts, maps, storage, sums, thinning

    for module in (counts, maps, storage, sums, thinning):
        for name, value in vars(module).items():
            if isinstance(value, Dispatcher):
                assert value.py_func.__qualname__ == name


def test_without_a_place_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from weft.kernels.compiled import jit

    def nowhere(function: object) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(jit, "_Cache", nowhere)
    assert jit.kernel(lambda x: x + 1)(1) == 2

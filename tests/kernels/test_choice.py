"""Which kernels are used, and what loading and compiling them costs."""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mergery.kernels
from mergery.errors import MergeryError
from mergery.kernels import compiled, kernels, readable
from mergery.kernels.compiled import maps, objects
from mergery.kernels.compiled.jit import Kernel
from mergery.run.events import Compiling, Event
from mergery.run.workers import announced
from tests.kernels.kernel_cases import consensus, count_high, count_low, gram, make, mix

NAMES = ("mix", "consensus", "convert", "gram", "l1_norms", "count_high", "count_low")


def test_compiled_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MERGERY_KERNELS", raising=False)
    assert kernels() is compiled


def test_readable_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MERGERY_KERNELS", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("mergery.kernels._choose", mergery.kernels._choose.__wrapped__)  # without what it remembers
    assert kernels() is readable


@pytest.mark.parametrize(("word", "module"), [("compiled", compiled), ("readable", readable)])
def test_the_environment_overrides(monkeypatch: pytest.MonkeyPatch, word: str, module: object) -> None:
    monkeypatch.setenv("MERGERY_KERNELS", word)
    assert kernels() is module


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGERY_KERNELS", "fast")
    with pytest.raises(MergeryError) as caught:
        kernels()
    assert str(caught.value) == ("MERGERY_KERNELS is 'fast'\n  try: set it to compiled or readable, or unset it")


def test_the_package_loads_nothing_heavy() -> None:
    code = "import sys, mergery.kernels; print([m for m in ('torch', 'numba', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", NAMES)
def test_both_modules_have_the_same_functions(name: str) -> None:
    ours, theirs = getattr(compiled, name), getattr(readable, name)
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    assert "mergery.kernels.readable" in ours.__doc__


def test_one_compilation_serves_all_calls() -> None:
    for has_base in (0, 1):
        case = make(0, "weights", [0, 1, 2, 3], 100, has_base)
        mix(compiled, case, np.ones((1, case.k), np.float32), 0)
        gram(compiled, case)
        count_high(compiled, case)
        count_low(compiled, case, np.zeros((case.k, 1), np.int64))
        compiled.convert(case.raw[0], 0, 100, np.empty(400, np.uint8), 2)
    consensus(0, 3, random=1).consensus(compiled, case, 2, 0)
    consensus(0, 3).l1_norms(compiled, case, 10)
    called = {name: maps.mix if name == "mix" else getattr(compiled, name) for name in NAMES}
    assert {name: len(each.made) for name, each in called.items()} == dict.fromkeys(NAMES, 1)


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip
    return done.stdout.strip()


def test_kernels_from_disk_do_without_numba() -> None:
    call = "raw = np.ones((2, 64), np.uint8); out = np.empty(64, np.uint8); kernels.convert(raw[0], 0, 32, out, 0)"
    code = f"import sys, numpy as np, mergery.kernels.compiled as kernels; {call}; print('numba' in sys.modules)"
    run_python(code)
    assert run_python(code) == "False"


def test_the_compiled_kernels_do_not_load_torch() -> None:
    assert run_python("import sys, mergery.kernels.compiled; print('torch' in sys.modules)") == "False"


def double(values):  # type: ignore[no-untyped-def]
    for e in range(values.size):
        values[e] *= 2
    return values.size


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for object files."""
    monkeypatch.setattr(objects, "_folders", lambda: [tmp_path / "kept"])
    return tmp_path / "kept"


def doubled(kernel: Kernel) -> list[float]:
    values = np.array([1, 2.5], np.float32)
    assert kernel(values) == 2
    return values.tolist()


def test_an_object_file_is_kept_and_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doubled(Kernel(double)) == [2, 5]
    (kept,) = folder.iterdir()
    assert kept.name.startswith("test_choice.double-")
    monkeypatch.setattr(Kernel, "_compile", None)
    assert doubled(Kernel(double)) == [2, 5]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:99] + b"?" + data[100:], lambda data: b""]
)
def test_a_damaged_object_file_is_made_again(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    doubled(Kernel(double))
    (kept,) = folder.iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    assert objects.load(kept.name) is None
    assert doubled(Kernel(double)) == [2, 5]
    assert objects.load(kept.name) is not None


def test_other_compilers_make_other_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubled(Kernel(double))
    monkeypatch.setattr(objects, "build", lambda: b"changed")
    doubled(Kernel(double))
    assert len(list(folder.iterdir())) == 2


def test_compiling_is_announced(folder: Path) -> None:
    events: list[Event] = []
    with announced(events.append):
        doubled(Kernel(double))
        doubled(Kernel(double))
    assert events == [Compiling("double")]
    assert not mergery.kernels.compiling


def test_without_a_place_for_object_files(folder: Path) -> None:
    folder.write_text("no folder")
    assert doubled(Kernel(double)) == [2, 5]


def test_arguments_that_a_kernel_does_not_take() -> None:
    with pytest.raises(TypeError, match="contiguous"):
        Kernel(double)(np.ones((4, 4))[:, 0])
    with pytest.raises(TypeError, match="no str"):
        Kernel(double)("four")


def joined(values):  # type: ignore[no-untyped-def]
    return values.reshape(-1).size


def test_a_kernel_that_needs_more_of_numba_is_refused(folder: Path) -> None:
    with pytest.raises(RuntimeError, match=r"joined.* calls numba_attempt_nocopy_reshape, which"):
        Kernel(joined)(np.ones((2, 2)))


def huge(values, size):  # type: ignore[no-untyped-def]
    return np.empty(size, np.float64).size + values.size


def test_too_little_memory(folder: Path) -> None:
    kernel, values = Kernel(huge), np.ones(1)
    with pytest.raises(MemoryError, match="huge"):
        kernel(values, 1 << 58)
    assert kernel(values, 4) == 5

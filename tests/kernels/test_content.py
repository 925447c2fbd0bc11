"""A kernel's code is kept under all that the kernel is made of: nothing stale is taken, and nothing is compiled in vain."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mergery.kernels.compiled import maps, sums
from mergery.kernels.compiled.content import content
from mergery.kernels.compiled.jit import Kernel, emitted

SOURCE = """
    import numpy as np
    from mergery.kernels.compiled.jit import inner, kernel
    from constants import FACTOR
    TABLE = np.arange(3.0)

    @inner
    def helper(value):
        return value * FACTOR

    @kernel
    def scaled(values):
        for e in range(values.size):
            values[e] = helper(values[e]) + TABLE[0]
        return 0
"""


def defined(
    text: str = SOURCE, factor: float = 2.0, monkeypatch: pytest.MonkeyPatch | None = None
) -> Callable[..., Any]:
    """The kernel `scaled` of a module, as a function."""
    constants = ModuleType("constants")
    vars(constants)["FACTOR"] = factor
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "constants", constants)
        names: dict[str, Any] = {"__name__": "own"}
        exec(compile(textwrap.dedent(text), "own.py", "exec"), names)
    return names["scaled"]._function


def test_the_same_text_is_the_same_content() -> None:
    assert content(defined()) == content(defined())
    assert content(defined(SOURCE.replace("    @inner", "    # A comment.\n    @inner"))) == content(defined())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("+ TABLE", "- TABLE"),
        ("range(values.size)", "range(1, values.size)"),
        ("value * F", "value / F"),
        ("3.0", "4.0"),
    ],
)
def test_another_instruction_or_table_is_other_content(old: str, new: str) -> None:
    assert SOURCE.count(old) == 1
    assert content(defined(SOURCE.replace(old, new))) != content(defined())


def test_a_constant_of_another_module_belongs_to_the_content() -> None:
    assert content(defined(factor=3.0)) != content(defined())
    assert content(defined(factor=2)) != content(defined())


def test_what_is_reached_through_a_module_belongs_to_the_content() -> None:
    def own(number: float) -> Callable[..., Any]:
        module = ModuleType("constants")
        vars(module)["FACTOR"] = number
        names: dict[str, Any] = {"constants": module, "__name__": "own"}
        exec("def scaled(value):\n    return value * constants.FACTOR", names)
        return names["scaled"]

    assert content(own(1.0)) == content(own(1.0)) != content(own(2.0))


def test_operations_in_instructions_belong_to_the_content() -> None:
    def kernel(width: int) -> Callable[..., Any]:
        @emitted("int64", "int64")
        def operation(builder: Any, value: Any) -> Any:
            return builder.add(value, width)

        return lambda values: operation(values.size)

    assert content(kernel(8)) == content(kernel(8)) != content(kernel(16))


def test_what_has_no_lasting_description_is_refused() -> None:
    unknown = SimpleNamespace(own=object())
    with pytest.raises(TypeError, match="a kernel cannot use"):
        content(lambda values: unknown)


def test_a_function_that_calls_itself() -> None:
    def twice(n: int) -> int:
        return twice(n - 1) if n else 0

    assert b"again 0" in content(twice)


def test_kernels_differ() -> None:
    kernels = [value for module in (maps, sums) for value in vars(module).values() if isinstance(value, Kernel)]
    assert len({content(kernel._function) for kernel in kernels}) == len(kernels) > 3


def test_the_content_is_the_same_in_every_process() -> None:
    code = "from mergery.kernels.compiled import maps, content as c; import hashlib; "
    code += "print(hashlib.sha256(c.content(maps.consensus._function)).hexdigest())"
    found = {
        subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True).stdout
        for flags in ((), ("-B",), ("-X", "pycache_prefix=/nowhere"))
    }
    assert len(found) == 1


def test_a_method_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its compiled version is named on its function, and found; another constant in a module beside it makes other code."""
    files = {
        "__init__.py": "",
        "constants.py": "FACTOR = 0.5\n",
        "halfway.py": """
            from mergery.method import Deltas, Tensor, method
            from mergery.method.compiled import compiled
            from others.constants import FACTOR

            @method()
            @compiled("others.fast:halfway")
            def halfway(deltas: Deltas) -> Tensor:
                '''Part of the first task vector.'''
                return deltas[0] * FACTOR
        """,
        "fast.py": """
            import numpy as np
            from mergery.kernels.compiled.jit import kernel
            from mergery.kernels.compiled.maps import OVERFLOW
            from mergery.kernels.compiled.patterns import f32
            from mergery.kernels.compiled.storage import STEP, decode, decode_vector, encode
            from others.constants import FACTOR

            @kernel
            def _halfway(raw, codes, n, out, out_code):
                status = np.int64(0)
                buffers = np.empty((2, STEP), np.float32)
                for start in range(0, n, STEP):
                    size = min(STEP, n - start)
                    base, delta = buffers[0, :size], buffers[1, :size]
                    status |= decode(raw[0], codes[0], start, base)
                    status |= decode_vector(raw, codes, 1, start, 1, base, delta)
                    for e in range(size):
                        base[e] += delta[e] * f32(FACTOR)
                    if encode(base, out, out_code, start):
                        status |= OVERFLOW
                return status

            def halfway(piece, out, out_code):
                return _halfway(piece.raw, piece.codes, piece.n, out, out_code)
        """,
        "use.py": """
            import sys, torch
            from mergery.kernels import compiling
            from others.halfway import halfway

            made = []
            compiling.append(made.append)
            base = torch.arange(5000.0)
            print(halfway([base + 2.0], base).sub(base).unique().tolist(), made, halfway.function.compiled.name)
        """,
    }
    folder = tmp_path / "others"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(textwrap.dedent(text))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("MERGERY_KERNELS", "compiled")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    def used() -> str:
        command = [sys.executable, "-m", "others.use"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()

    used()
    assert used() == "[1.0] [] others.fast:halfway"
    (folder / "constants.py").write_text("FACTOR = 0.25\n")
    assert used().startswith("[0.5]")

"""Methods on tensors give the same bytes by torch and by their compiled versions, whatever the types, sizes and settings."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mergery import merge_tensors
from mergery.errors import DataError
from mergery.kernels import choice
from mergery.method import Method, methods
from mergery.method.asks import Largest, Sum
from mergery.method.compiled import Compiled, compiled, find_compiled
from mergery.methods.ram import ram

SHAPES = ((5, 7), (3, 4100), (1500,), (1,), (130, 64), (2, 3, 5))
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
CASES: dict[str, list[dict[str, Any]]] = {
    "arcee_fusion": [{}],
    "breadcrumbs": [
        {"scope": scope, "rescale": rescale, "normalize": scope == "row", "density": 0.4, "gamma": 0.1, "weight": w}
        for scope in ("row", "tensor")
        for rescale, w in (("none", -0.7), ("l1", 0.3))
    ],
    "breadcrumbs_ties": [
        {"scope": scope, "rescale": rescale, "normalize": rescale == "l1", "density": 0.5, "gamma": 0.05, "scale": 0.3}
        for scope in ("row", "tensor")
        for rescale in ("none", "l1")
    ],
    "della": [
        {"rescale": rescale, "density": density, "window": window, "normalize": window != 0.2, "weight": 0.6}
        for rescale in ("probability", "l1", "none")
        for density, window in ((0.5, 1.0), (0.3, 0.2), (0.9, 0.0), (0.0, 0.0))
    ],
    "della_linear": [{"rescale": rescale, "scale": 1.1} for rescale in ("probability", "l1", "none")],
    "nearswap": [{"t": 0.0}, {"t": 0.3}],
    "ram": [{}, {"epsilon": 0.5, "scale": -0.3}],
    "ramplus_tl": [{}, {"epsilon": 0.3, "r": 2.0, "alpha": 0.7, "scale": 0.5}],
    "sce": [{}, {"select_topk": 1.0}, {"select_topk": 0.5, "select_applies_to": "weights", "scale": 0.7}],
}


def inputs(
    method: Method, shape: tuple[int, ...], dtype: torch.dtype, k: int
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Models of which many entries equal the base's, differ by equal steps, or by anything; with zeros of both signs."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{method.name} {shape} {dtype}".encode()))
    base = torch.randn(shape, generator=generator).round(decimals=1)
    base = base.where(torch.rand(shape, generator=generator) > 0.1, torch.tensor(-0.0))
    models = []
    for _ in range(k):
        step = torch.randint(-3, 4, shape, generator=generator) * 0.125
        fine = torch.randn(shape, generator=generator)
        kind = torch.rand(shape, generator=generator)
        models.append((base + step.where(kind < 0.5, fine.where(kind < 0.9, torch.tensor(0.0)))).to(dtype))
    return models, base.to(dtype)


def like_weights(
    method: Method, shape: tuple[int, ...], dtype: torch.dtype, k: int
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Small numbers with a few large ones, as weights are, of which fine-tunes have changed a part; one row is zero."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"weights {method.name} {shape} {dtype}".encode()))

    def small() -> torch.Tensor:
        few = torch.rand(shape, generator=generator) < 0.01
        return torch.randn(shape, generator=generator) * torch.where(few, 1.0, 0.02)

    base = small()
    changed = [torch.rand(shape, generator=generator) < share for share in (1.0, 0.3, 0.02)[:k]]
    models = [base + torch.where(here, small() * 0.05, torch.tensor(0.0)) for here in changed]
    for tensor in (base, *models):
        tensor[:1] *= 0.0
    return [model.to(dtype) for model in models], base.to(dtype)


def as_bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


@pytest.mark.parametrize("make", [inputs, like_weights], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", CASES)
def test_same_bytes(name: str, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    method = methods()[name]
    k = 1 if method.models[1] == 1 else 3
    for number, settings in enumerate(CASES[name]):
        for place, shape in enumerate(SHAPES):
            models, base = make(method, shape, DTYPES[(number + place) % len(DTYPES)], k)
            found = []
            for kernels in ("compiled", "readable"):
                monkeypatch.setenv("MERGERY_KERNELS", kernels)
                found.append(as_bits(merge_tensors(method, models, base, seed=3, **settings)))
            assert torch.equal(*found), f"{settings} of {shape}"


def functions(method: Method) -> list[Callable[..., Any]]:
    """A method's own function, and those of its asks."""
    asked = [ask.of for _, ask in method.asks if isinstance(ask, (Largest, Sum)) and ask.of is not None]
    return [method.function, *asked]


def test_every_compiled_version_is_tested_and_there() -> None:
    named = {method.name: list(map(find_compiled, functions(method))) for method in methods().values()}
    assert {name for name, versions in named.items() if any(versions)} == set(CASES)
    for name in CASES:
        for version in named[name]:
            assert version is not None and callable(version.run)


def test_readable_kernels_want_no_compiled_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choice() == "compiled" and find_compiled(ram.function) == Compiled("mergery.methods.compiled.changes:ram")
    monkeypatch.setenv("MERGERY_KERNELS", "readable")
    assert find_compiled(ram.function) is None


def test_a_name_stands_for_nothing_until_it_is_called() -> None:
    @compiled("no.such.module:no_such_function", each=False)
    def own() -> None: ...

    version = find_compiled(own)
    assert version is not None and not version.each
    with pytest.raises(ModuleNotFoundError, match="no"):
        version.run()


@pytest.mark.parametrize("name", CASES)
def test_broken_inputs_are_named(name: str) -> None:
    method = methods()[name]
    models, base = inputs(method, (4, 9), torch.float32, 1 if method.models[1] == 1 else 2)
    models[-1][2, 3] = torch.nan
    settings = CASES[name][0]
    with pytest.raises(DataError, match=f"of model '{len(models) - 1}' holds NaN or infinity"):
        merge_tensors(method, models, base, **settings)

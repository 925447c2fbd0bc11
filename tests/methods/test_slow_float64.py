"""Methods on matrices on a device that is slow in float64: the processor says that it is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mergery.kernels import leading, rates, symmetric, ways
from mergery.kernels.tridiagonal import eigenvectors
from mergery.method import Method
from mergery.method.asks import Noise
from mergery.methods.ace import ace
from mergery.methods.actmat import actmat
from mergery.methods.dc_merge import dc_merge
from mergery.methods.iso_c import iso_c
from mergery.methods.iso_cts import iso_cts
from mergery.methods.subspace_boosting import subspace_boosting
from mergery.methods.svc import svc
from mergery.methods.swudi import swudi
from mergery.methods.swudi_a import swudi_a
from mergery.methods.tsv_merge import tsv_merge

from .merging import normal

SPECTRAL = (iso_c, iso_cts, tsv_merge, dc_merge, svc, subspace_boosting)
OWN_ROWS = (swudi, swudi_a, ace, actmat)
METHODS = (*SPECTRAL, *OWN_ROWS)
CLOSE = 1e-5  # of the length of the merged task vector
SHAPES = {"square": (512, 512), "tall": (704, 512), "wide": (512, 704)}
FEWER_ROWS = (512, 1600)  # all tasks together have fewer than inputs


def falling(k: int, out: int, into: int, power: float = 0.5) -> list[torch.Tensor]:
    """Task vectors half of each of which is common, with singular values that fall like a power of their place."""
    fall = torch.arange(1, min(out, into) + 1) ** -power
    make = [
        normal(out, len(fall), seed=2 * task) * fall @ normal(len(fall), into, seed=2 * task + 1)
        for task in range(k + 1)
    ]
    return [make[0] + own for own in make[1:]]


def stored(base: torch.Tensor, changes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What changes of a base come to where it and the changed ones are stored in bfloat16, and these."""
    origin = base.bfloat16().float()
    return [(origin + change).bfloat16().float() for change in changes]


def cases() -> dict[str, tuple[list[torch.Tensor], list[torch.Tensor]]]:
    """Task vectors, and what rounding to 16 bits has added to each."""
    plain = falling(3, 512, 512)
    found = {
        "without a spectrum": [normal(512, 512, seed=seed) for seed in range(3)],
        "a duplicate": [*plain[:2], plain[0]],
        "three times another": [*plain[:2], 3.0 * plain[0]],
        "a zero": [*plain[:2], 0.0 * plain[0]],
        "one": plain[:1],
        "steep": falling(3, 512, 512, 1.5),
        "tiny": [1e-9 * delta for delta in plain],
    }
    none = torch.zeros((), dtype=torch.float64)
    ready = {name: (deltas, [none] * len(deltas)) for name, deltas in found.items()}
    base = (0.02 * normal(512, 512, seed=90)).bfloat16().float()
    adapters = [1e-3 * normal(512, 8, seed=i) @ normal(8, 512, seed=50 + i) for i in range(3)]
    for name, changes in {
        "adapters in bfloat16": adapters,
        "whole in bfloat16": [2e-3 * d / d.std() for d in plain],
    }.items():
        models = stored(base, changes)
        ready[name] = ([model - base for model in models], [Noise().of(model, "bfloat16") for model in models])
    return ready


CASES = cases()


def made(method: Method, deltas: Sequence[torch.Tensor], noise: Sequence[torch.Tensor] | None = None, **settings: Any):
    """The merged task vector as the method makes it, before it is rounded."""
    noise = noise or [torch.zeros((), dtype=torch.float64)] * len(deltas)
    return method.function([delta.clone() for delta in deltas], list(noise), **method.resolve(len(deltas), settings))


def exact(method: Method, deltas: Sequence[torch.Tensor], noise: Sequence[torch.Tensor] | None = None) -> torch.Tensor:
    settings = {"precision": "exact"} if "precision" in method.settings else {}
    return made(method, deltas, noise, **settings)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setattr(rates, "full_rate", lambda device: False)


@pytest.fixture
def refused(monkeypatch):
    """Whether float64 had to do it."""
    seen: list[bool] = []

    class Seen(ways.InFloat64):
        def __init__(self, *, single: bool) -> None:
            seen.append(single)
            super().__init__(single=single)

    monkeypatch.setattr(ways, "InFloat64", Seen)
    return seen


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_of_every_shape_the_result_is_that_of_float64(method, shape, monkeypatch):
    deltas = falling(3, *SHAPES[shape])
    expected = exact(method, deltas)
    monkeypatch.setattr(rates, "full_rate", lambda device: False)
    assert distance(made(method, deltas), expected) < CLOSE


@pytest.mark.parametrize("make", [falling, lambda k, *shape: [normal(*shape, seed=seed) for seed in range(k)]])
@pytest.mark.parametrize("method", OWN_ROWS, ids=lambda method: method.name)
def test_so_it_is_where_the_problem_is_written_in_rows(method, make, monkeypatch):
    deltas = make(3, *FEWER_ROWS)
    expected = exact(method, deltas)
    monkeypatch.setattr(rates, "full_rate", lambda device: False)
    assert distance(made(method, deltas), expected) < CLOSE


SOME = ("a duplicate", "whole in bfloat16")  # cases of every method; all cases are of one of each kind
PAIRS = [(method, case) for method in METHODS for case in CASES if case in SOME or method in (tsv_merge, swudi)]


@pytest.mark.parametrize(("method", "case"), PAIRS, ids=lambda each: getattr(each, "name", each))
def test_so_it_is_of_every_kind(method, case, monkeypatch):
    expected = exact(method, *CASES[case])
    monkeypatch.setattr(rates, "full_rate", lambda device: False)
    assert distance(made(method, *CASES[case]), expected) < CLOSE


class Work(TorchDispatchMode):
    """The operations of linear algebra, by dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.done = {torch.float32: 0.0, torch.float64: 0.0}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.partition(".")[0].rstrip("_")
        shapes = [each.shape for each in args if isinstance(each, torch.Tensor)]
        if name in COSTS:
            self.done[args[0].dtype] += COSTS[name](*shapes)
        else:
            assert name in FREE or not any(word in name for word in ("mm", "linalg", "solve", "cholesky", "svd")), name
        return func(*args, **(kwargs or {}))


COSTS = {
    "mm": lambda a, b: 2.0 * a.numel() * b[-1],
    "bmm": lambda a, b: 2.0 * a.numel() * b[-1],
    "addmm": lambda c, a, b: 2.0 * a.numel() * b[-1],
    "linalg_qr": lambda a: 4.0 * a.numel() * a[-1],
    "_linalg_eigh": lambda a: 9.0 * a.numel() * a[-1],
    "linalg_cholesky_ex": lambda a: a.numel() * a[-1] / 3.0,
    "cholesky_solve": lambda b, root: 2.0 * b.numel() * root[-1],
    "linalg_solve_triangular": lambda root, b: b.numel() * root[-1],
}
FREE = {"linalg_vector_norm", "linalg_vecdot", "_linalg_check_errors"}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_hardly_a_product_is_in_float64(method, slow, monkeypatch):
    size = 512 if method in SPECTRAL else 768  # of a cut's neighbours there are 96 at least
    deltas, work, by_numpy = [normal(size, size, seed=seed) for seed in range(3)], Work(), np.linalg.eigh

    def counted(matrix: np.ndarray) -> Any:
        assert matrix.dtype == np.float64
        work.done[torch.float64] += 9.0 * matrix.size * matrix.shape[-1]
        return by_numpy(matrix)

    def counted_too(matrix: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        work.done[matrix.dtype] += 9.0 * matrix.numel() * matrix.shape[-1]
        return eigenvectors(matrix, count)

    monkeypatch.setattr(np.linalg, "eigh", counted)
    monkeypatch.setattr(symmetric, "eigenvectors", counted_too)
    monkeypatch.setattr(leading, "eigenvectors", counted_too)
    with work:
        made(method, deltas)
    assert work.done[torch.float64] < 0.15 * work.done[torch.float32]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_exact_is_exact(method, slow):
    if "precision" not in method.settings:
        pytest.skip("it has no such setting")
    deltas = [normal(512, 512, seed=seed) for seed in range(3)]
    assert exact(method, deltas).dtype == torch.float64


@pytest.mark.parametrize("method", [tsv_merge, iso_cts, dc_merge], ids=lambda method: method.name)
def test_directions_that_float32_cannot_tell_from_others_are_left_to_float64(method, refused, monkeypatch):
    deltas, noise = CASES["three times another"]
    expected = made(method, deltas, noise)
    refused.clear()
    monkeypatch.setattr(rates, "full_rate", lambda device: False)
    assert torch.equal(made(method, deltas, noise), expected)
    assert refused == [True]


@pytest.mark.parametrize("method", SPECTRAL, ids=lambda method: method.name)
def test_where_it_holds_them_float64_is_not_asked(method, slow, refused):
    made(method, [normal(512, 512, seed=seed) for seed in range(3)])
    assert not refused


def test_a_choice_of_entries_near_the_last_is_left_to_float64():
    way = ways.InFloat32(2)
    way.tilts = [torch.zeros(1, 1), torch.zeros(1, 1)]
    matrix = torch.tensor([[1.0, 0.2], [0.1, 0.5]])
    way.check_choice(matrix, matrix * (matrix > 0.3))
    close = torch.tensor([[1.0, 0.5 - 1e-7], [0.1, 0.5]])
    with pytest.raises(ways.Unsound):
        way.check_choice(close, close * (close >= 0.5))
    way.tilts = [torch.full((1, 1), 0.9), torch.zeros(1, 1)]  # a direction that may as well be another
    with pytest.raises(ways.Unsound):
        way.check_choice(matrix, matrix * (matrix > 0.15))


def test_so_is_a_vote_that_is_nearly_even():
    way = ways.InFloat32(2)
    way.check_vote([torch.tensor([[1.0, 0.0]]), torch.tensor([[-0.5, 0.0]])], [1.0, 1.0])
    way.check_vote([torch.tensor([[1.0, 1e-9]]), torch.tensor([[1.0, 0.0]])], [1.0, 1.0])  # small, but not contested
    with pytest.raises(ways.Unsound):
        way.check_vote([torch.tensor([[1.0, 0.0]]), torch.tensor([[-0.5, 0.0]])], [1.0, 2.0])


def test_small_matrices_and_stacks_of_them_are_made_in_float64(slow, refused):
    iso_c([normal(300, 600), normal(300, 600, seed=1)], base=torch.zeros(300, 600))
    assert refused == [True]
    stack = [normal(2, 512, 512, seed=seed) for seed in range(2)]
    made(iso_c, stack, [torch.zeros(2, dtype=torch.float64)] * 2)
    assert refused == [True, True]


def test_on_processors_nothing_changes():
    assert not rates.slow_in_float64(normal(2, 2))
    found = made(iso_c, [normal(512, 512, seed=seed) for seed in range(2)])
    assert found.dtype == torch.float64

"""What a plan says that a matrix costs is what it costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mergery.method import Ask, Base, Inputs, Noise, methods
from mergery.planning.plan import make_plan
from mergery.report.explain import explain
from mergery.run.workers import Options
from tests.run.test_scale import MAPPED, merge_process

ROUTED = [name for name, method in methods().items() if method.routing is not None]


class KeyedUniform:
    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape

    def uniform(self, model: int) -> torch.Tensor:
        return torch.rand(self.shape)


@pytest.fixture(autouse=True)
def eigenvectors_by_torch(monkeypatch):
    """Torch tells of the memory of its own eigenvectors, which is that of numpy's: it is the same routine of LAPACK."""

    def eigh(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = torch.linalg.eigh(torch.from_numpy(matrix))
        return values.numpy(), vectors.numpy()

    monkeypatch.setattr(np.linalg, "eigh", eigh)


def asks(ask: Ask, base: torch.Tensor, deltas: list[torch.Tensor]) -> Any:
    """What one ask of a method on matrices is answered with."""
    if isinstance(ask, Noise):
        return [ask.of(delta, "float32") for delta in deltas]
    if isinstance(ask, Inputs):
        return [delta.T @ delta for delta in deltas]
    return base if isinstance(ask, Base) else KeyedUniform((base.shape[0], base.shape[1]))


def allocated(name: str, k: int, shape: tuple[int, int]) -> tuple[int, int]:
    """Bytes that torch holds at the peak of one call beside its inputs, and those that the route foresees."""
    from torch.autograd.profiler import profile

    method = methods()[name]
    given: dict[str, Any] = (
        {"task": 0} if "task" in method.settings else {"steps": 1} if "steps" in method.settings else {}
    )
    settings = method.resolve(k, given)
    torch.manual_seed(0)
    fading = torch.logspace(0, -5, shape[1])  # the smallest singular values are made orthonormal once more
    deltas, base = [torch.randn(shape) * fading for _ in range(k)], torch.randn(shape)
    asked = {key: asks(ask, base, deltas) for key, ask in method.asks}
    with profile(profile_memory=True) as seen:
        merged = method.function(deltas, **asked, **settings)
        _ = merged if method.takes == "models" else base + merged
    events = [
        (event.start_ns(), event.nbytes()) for event in seen.kineto_results.events() if event.name() == "[memory]"
    ]
    held = most = 0
    for _, change in sorted(events, key=lambda event: event[0]):
        held += change
        most = max(most, held)
    assert method.routing is not None
    return most, method.routing(k, *shape, settings).workspace


@pytest.mark.parametrize("shape", [(240, 80), (80, 240)])
@pytest.mark.parametrize("name", ROUTED)
def test_the_route_foresees_what_linear_algebra_holds(name, shape):
    took, foreseen = allocated(name, 2, shape)
    assert took <= 1.02 * foreseen
    assert foreseen < 2.5 * took


def test_more_models_take_as_much_more_as_is_foreseen():
    for name in (name for name in ROUTED if methods()[name].models[1] is None):
        took, foreseen = allocated(name, 5, (120, 120))
        assert took <= 1.2 * foreseen, name


def test_the_plan_knows_the_memory_of_a_merge(tmp_path):
    for number, name in enumerate(("base", "a", "b")):
        torch.manual_seed(number)
        (tmp_path / name).mkdir()
        save_file({"model.layers.0.mlp.up_proj.weight": torch.randn(1536, 512)}, tmp_path / name / "model.safetensors")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("models: {base: ./base, a: ./a, b: ./b}\nmerge: {method: ace, base: base}\n")
    plan = make_plan(recipe)
    planned = explain(plan, Options(threads=1))["peak_memory"]
    plan.close()
    peak = merge_process(recipe, tmp_path / "out", "--threads", "1")
    assert planned > 0.8 * peak - MAPPED, f"planned {planned >> 20} MiB, took {peak >> 20} MiB"
    assert planned < 1.5 * peak

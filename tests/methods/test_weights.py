"""What the weights of each method are, shares of one another or factors of what is added, is what it declares."""

from typing import Any

import pytest
import torch

from mergery.method import Method
from mergery.method.registry import methods

from .merging import normal

WEIGHED = [
    method
    for method in methods().values()
    if "weight" in method.settings and "normalize" not in method.settings and not method.statistics
]


def change(method: Method, weight: float) -> float:
    """The size of what a merge changes in its first model, or in the base, with this weight for all models."""
    k = max(3, method.models[0]) if method.models[1] is None else method.models[1]
    base = normal(12, 10, seed=99)
    models = [base + (0.1 + task) * normal(12, 10, seed=task) for task in range(k)]
    own: dict[str, Any] = {setting.name: 0 for setting in method.settings.values() if setting.kind == "task"}
    origin = base if method.base != "unused" else None
    return float(torch.linalg.vector_norm(method(models, origin, weight=weight, **own) - base))


@pytest.mark.parametrize("method", WEIGHED, ids=lambda method: method.name)
def test_a_large_weight_for_all(method):
    times = change(method, 50.0) / change(method, 1.0)
    assert times > 10.0 if method.weighs == "factors" else times == pytest.approx(1.0, abs=0.02)

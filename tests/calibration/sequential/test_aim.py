"""AIM takes back what a merge has changed, column by column, as far as the base's inputs are large."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.torch import load_file

import mergery
from mergery.calibration.sequential.aim import shares_of
from tests.calibration.whole import tensors


def test_shares_by_hand():
    assert np.allclose(shares_of(np.array([[2.0, 1.0, 0.0]], np.float32), 0.4), [[0.4, 0.7, 1.0]])
    assert np.allclose(shares_of(np.array([[3.0, 3.0]], np.float32), 0.4), 0.4)  # alike everywhere: the change times w
    assert np.allclose(shares_of(np.zeros((1, 3), np.float32), 0.4), 1.0)  # an expert that no token reached
    assert np.allclose(shares_of(np.array([[2.0, 1.0]], np.float32), 0.0), [[0.0, 0.5]])  # the column is the base's


@pytest.fixture
def recipe(model, write, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(family, keep):
        return {
            "models": {name: str(model(family, seed)) for seed, name in enumerate(("base", "one", "two"))},
            "merge": {"method": "task_arithmetic", "base": "base", "scale": 0.4},
            "output": {"dtype": "float32"},
            "calibration": {"data": str(write(9))},
            "refine": {"method": "aim", "keep": keep},
        }

    return make


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_it_is_what_the_equation_gives(family, recipe, model, write, tmp_path):
    said = recipe(family, 0.3)
    plain = mergery.merge({key: value for key, value in said.items() if key not in ("calibration", "refine")})
    found = mergery.merge(said)
    options = mergery.CalibrationOptions(("activation",))
    known = mergery.calibrate(model(family), write(9), tmp_path / "stats", options=options)
    sums = tensors(tmp_path / "stats")
    base = {}
    for file in model(family).glob("*.safetensors"):
        base |= load_file(file)
    changed = 0
    for name, value in found.items():
        if name not in known.inputs or name == "lm_head.weight":
            assert np.array_equal(value.numpy(), plain[name].numpy()), name
            continue
        size = sums[f"{known.inputs[name].of}.activation"]
        share = 1.0 - 0.7 * size / max(size.max(), 1e-30)
        share = share[:, None] if family == "gpt2" else share[None, :]
        origin = base[name].double().numpy()
        expected = origin + (plain[name].double().numpy() - origin) * share
        assert np.abs(value.double().numpy() - expected).max() < 1e-5, name
        changed += not np.array_equal(value.numpy(), plain[name].numpy())
    assert changed >= 8


def test_nothing_taken_back_is_the_merge_itself(recipe, tmp_path):
    said = recipe("llama", 1.0)
    plain = mergery.merge({key: value for key, value in said.items() if key not in ("calibration", "refine")})
    found = mergery.merge(said)
    assert all(np.allclose(found[name].numpy(), plain[name].numpy(), atol=1e-6) for name in plain)


def test_into_a_folder(recipe, tmp_path):
    result = mergery.merge(recipe("bert", 0.4), tmp_path / "out")
    assert any("refined by AIM on what base rests on" in note for note in result.plan.notes)
    assert json.loads((tmp_path / "out" / "mergery.lock.json").read_text())["refined"]["tensors"]
    assert mergery.verify(tmp_path / "out", sample=2) == []

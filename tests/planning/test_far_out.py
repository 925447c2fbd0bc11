"""A factor that is far out of sense was meant as a percentage: the plan says so, and goes on."""

from __future__ import annotations

import pytest
import torch

import mergery
from tests.planning.test_inputs import model

NAMES = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(2)]
MODELS = {name: {each: torch.full((4, 4), float(at)) for each in NAMES} for at, name in enumerate(("base", "a", "b"))}


def far_out(**merge: object) -> list[str]:
    """Warnings of factors in the plan of a merge of two models on their base."""
    plan = mergery.plan({"models": MODELS, "merge": {"models": ["a", "b"], "base": "base"} | merge})
    return [text for text in plan.warnings if "percentage" in text]


def told(method: str, setting: str, meant: float) -> list[str]:
    return [f"{method}: {setting} is a factor, not a percentage; did you mean {meant}?"]


@pytest.mark.parametrize("weight", [50, {"a": 50, "b": 1}, {"a": -50, "b": 1}, {"gradient": [0, 50]}])
def test_a_weight_in_percent(weight):
    assert far_out(method="task_arithmetic", weight=weight) == told("task_arithmetic", "weight 50", 0.5)


def test_a_scale_in_percent():
    assert far_out(method="ties", scale=30) == told("ties", "scale 30", 0.3)
    assert far_out(method="iso_c", scale=120) == told("iso_c", "scale 120", 1.2)


def test_a_scale_in_percent_is_warned_of_once():
    merge = {"method": "task_arithmetic", "models": ["a", "b"], "base": "base", "scale": 30}
    plan = mergery.plan({"models": MODELS, "merge": merge})
    assert not [text for text in plan.warnings if "overshoots" in text]
    plan = mergery.plan({"models": MODELS, "merge": merge | {"scale": 2}})
    assert [text for text in plan.warnings if "begin with scale 0.59" in text]


def test_both_are_told_apart():
    wanted = told("task_arithmetic", "scale 20", 0.2) + told("task_arithmetic", "weight 50", 0.5)
    assert far_out(method="task_arithmetic", scale=20, weight=50) == wanted


def test_weights_that_are_shares_may_be_percentages():
    shares = {"a": 30, "b": 70}
    assert far_out(method="linear", weight=shares) == []
    assert far_out(method="task_arithmetic", weight=shares, normalize=True) == []
    assert far_out(method="balanced", weight=shares) == []
    assert far_out(method="linear", weight=shares, normalize=False) == told("linear", "weight 70", 0.7)


def test_weights_of_methods_without_shares_are_factors():
    for method in ("iso_c", "tsv_merge", "pcb", "opcm"):
        assert far_out(method=method, weight={"a": 30, "b": 70}) == told(method, "weight 70", 0.7)
    assert far_out(method="ace", weight={"a": 30, "b": 70}) == []


def test_factors_that_make_sense():
    assert far_out(method="task_arithmetic", weight={"a": 2, "b": -1}, scale=1.5) == []
    assert far_out(method="task_arithmetic", weight=10) == []
    assert far_out(method="iso_c") == []  # scale: auto


def test_parts_and_stages_are_looked_at_too():
    part = {"where": {"layers": 1}, "method": "task_arithmetic", "weight": 50}
    assert far_out(method="linear", parts=[part]) == told("task_arithmetic", "weight 50", 0.5)
    stage = {"method": "task_arithmetic", "models": ["a"], "base": "base", "scale": 50}
    plan = mergery.plan({"models": MODELS | {"more": stage}, "merge": {"method": "linear", "models": ["more", "b"]}})
    assert told("task_arithmetic", "scale 50", 0.5)[0] in plan.warnings


def test_a_file_of_mergekit_means_what_it_says(tmp_path):
    folders = [str(model(tmp_path / name, seed)) for seed, name in enumerate(("base", "a"))]
    settings = {"merge_method": "task_arithmetic", "base_model": folders[0], "dtype": "float32"}
    models = [{"model": folders[1], "parameters": {"weight": 50}}]
    assert not any("percentage" in text for text in mergery.plan(settings | {"models": models}).warnings)

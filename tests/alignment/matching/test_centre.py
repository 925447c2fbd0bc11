"""Many models matched to their common centre."""

from __future__ import annotations

import numpy as np

import mergery
from mergery.alignment.matching.centre import match_to_centre, mean_of
from mergery.recipe.aligning import KINDS
from mergery.testing.symmetries import random_transform
from mergery.views.transforms import transformed
from tests.alignment.matching.test_weights import furthest
from tests.conftest import make_llama
from tests.views.test_transforms import opened, values, written


def test_a_mean_is_the_mean(tmp_path):
    views = [opened(make_llama(tmp_path / str(seed), seed))[0] for seed in range(3)]
    mean = mean_of(views)
    name = "model.layers.1.mlp.up_proj.weight"
    wanted = sum(values(view.nodes[name]) for view in views) / 3
    assert np.allclose(values(mean.nodes[name]), wanted, atol=1e-7)


def test_models_in_coordinates_of_their_own_come_together(tmp_path, monkeypatch):
    """Three copies of one model, two of them in other coordinates: all are the anchor in the end, and so is their average."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = make_llama(tmp_path / "a", 1)
    view, spaces = opened(folder)
    for seed, name in enumerate("bc", 1):
        written(transformed(view, random_transform(spaces, seed), spaces), folder, tmp_path / name)
    views = {name: opened(tmp_path / name)[0] for name in "abc"}
    found, left = match_to_centre(views, "a", KINDS)
    for name, transform in found.items():
        assert furthest(view, transformed(views[name], transform, spaces)) < 1e-5
        assert left[name][1] < 1e-9 * left[name][0]
    models = {name: tmp_path / name for name in "abc"}
    made = mergery.merge({"models": models, "merge": {"method": "linear"}, "align": "mean"})
    assert all(np.allclose(made[name].numpy().ravel(), values(node), atol=1e-5) for name, node in view.nodes.items())


def test_the_centre_is_no_further_than_where_it_began(tmp_path):
    """Three models of different seeds: what is left of the differences after the rounds is no more than after the first."""
    views = {name: opened(make_llama(tmp_path / name, seed))[0] for seed, name in enumerate("abc")}

    def apart(rounds: int) -> float:
        found, _ = match_to_centre(views, "a", ("mlp", "residual"), rounds=rounds)
        spaces = opened(tmp_path / "a")[1]
        stand = [views["a"], *(transformed(views[name], found[name], spaces) for name in "bc")]
        pairs = [(stand[i], stand[j]) for i in range(3) for j in range(i)]
        return sum(
            float(((values(one.nodes[name]) - values(two.nodes[name])) ** 2).sum())
            for one, two in pairs
            for name in one.nodes
        )

    assert apart(3) < apart(0)


def test_a_mean_takes_no_activations(tmp_path, mergery):
    recipe = tmp_path / "recipe.yaml"
    said = "align: {to: mean, method: activations, data: texts.jsonl}"
    recipe.write_text(f"models: {{a: ./a, b: ./b}}\nmerge: {{method: linear}}\n{said}\n")
    outcome = mergery("plan", recipe)
    assert outcome.code == 2
    assert "a mean is matched by weights, and without rotation" in outcome.err

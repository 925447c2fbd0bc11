"""Rotations of the residual stream: planted ones come back, and what a model computes stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mergery
from mergery.errors import MergeryError
from mergery.graph.view import View
from mergery.planning.coordinates import spaces_of
from mergery.recipe.aligning import KINDS
from mergery.testing.families.making import fine_tune, load, logits, make
from mergery.testing.families.table import FAMILIES
from mergery.testing.symmetries import random_transform
from mergery.views.transforms import Transform, transformed, why_illegal
from mergery.views.transforms.folding import folded, untied, with_gains
from tests.views.test_transforms import opened, values, written

BY_NAME = {family.name: family for family in FAMILIES}
PRENORM = ("Llama", "Qwen 2", "Mixtral", "Gemma", "Phi 3", "Qwen 3 MoE")
SPACES = (*KINDS[1:], "rotation")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def rotated(view: View, seed: int) -> View:
    """A model with its residual stream turned at random, and the gains of its norms drawn anew."""
    draw = np.random.default_rng(seed)
    view = untied(view, spaces_of(view))
    spaces = spaces_of(view)
    transform = random_transform(spaces, seed, KINDS[1:])
    size = spaces.sizes["residual"].size
    turn = np.linalg.qr(draw.normal(size=(size, size)))[0]
    gains = {name: draw.uniform(0.5, 1.5, size).astype(np.float32) for name in sorted(set(spaces.before.values()))}
    moved = Transform(transform.units, transform.heads, {}, turn, gains)
    assert not why_illegal(moved, spaces)
    return with_gains(transformed(folded(view, spaces), moved, spaces), spaces, gains)


@pytest.mark.parametrize("name", PRENORM)
def test_a_planted_rotation_is_found_and_answers_stay(name, tmp_path):
    family = BY_NAME[name]
    folder = make(family, tmp_path / "model")
    view = opened(folder)[0]
    turned = rotated(view, 1)
    planted = written(turned, folder, tmp_path / "planted")
    config = turned.config.plain()
    (planted / "config.json").write_text(json.dumps(config))
    first = logits(family, load(family, folder)[0])
    assert float((first - logits(family, load(family, planted)[0])).abs().max() / first.abs().max()) < 2e-5
    mergery.align(planted, folder, tmp_path / "out", spaces=SPACES)
    out = opened(tmp_path / "out")[0]
    apart = {each: float(np.abs(values(node) - values(out.nodes[each])).max()) for each, node in view.nodes.items()}
    assert max(apart.values()) < 1e-4, max(apart, key=lambda each: apart[each])
    assert float((first - logits(family, load(family, tmp_path / "out")[0])).abs().max() / first.abs().max()) < 2e-5


def test_a_fine_tune_is_not_rotated(tmp_path):
    base = make(BY_NAME["Llama"], tmp_path / "base")
    tuned = fine_tune(base, tmp_path / "tuned", 1)
    result = mergery.align(tuned, base, tmp_path / "out", spaces=SPACES)
    assert "it is aligned already" in (result.folder / "README.md").read_text()
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (tuned, tmp_path / "out"))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_strangers_answer_as_they_did(tmp_path):
    family = BY_NAME["Llama"]
    one, other = (make(family, tmp_path / name, seed) for seed, name in enumerate("ab"))
    mergery.align(other, one, tmp_path / "out", spaces=SPACES, check=True)
    gains = [opened(folder)[0].nodes["model.norm.weight"] for folder in (one, tmp_path / "out")]
    assert np.array_equal(values(gains[0]), values(gains[1]))


@pytest.mark.parametrize("name", ["GPT-2", "Gemma 2", "OLMo 2"])
def test_norms_that_see_a_rotation_refuse_it(name, tmp_path):
    folder = make(BY_NAME[name], tmp_path / "model")
    with pytest.raises(MergeryError, match="cannot be rotated"):
        mergery.align(folder, folder, Path(tmp_path / "out"), spaces=["rotation"])

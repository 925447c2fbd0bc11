"""Rotations of the residual stream: planted ones come back, and what a model computes stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mergery
from mergery.alignment.matching.turning import across, best_turn
from mergery.architecture.norms import norms_before
from mergery.errors import MergeryError
from mergery.graph.view import View
from mergery.planning.coordinates import spaces_of
from mergery.recipe.aligning import KINDS
from mergery.testing.families.making import fine_tune, load, logits, make
from mergery.testing.families.table import FAMILIES
from mergery.testing.symmetries import random_transform
from mergery.views.transforms import Transform, transformed, why_illegal
from mergery.views.transforms.folding import folded, untied, with_gains
from tests.views.test_transforms import KNOWN, opened, values, written

BY_NAME = {family.name: family for family in (*FAMILIES, *KNOWN)}
PRENORM = ("Llama", "Qwen 2", "Mixtral", "Gemma", "Phi 3", "Qwen 3 MoE")
LAYERNORM = (
    "GPT-2", "GPT-Neo", "GPT-J", "GPT-NeoX", "Phi", "Falcon", "Falcon RW", "Falcon 2", "Cohere 2",
    *("cohere", "starcoder2", "stablelm", "nemotron", "opt"),
)  # fmt: skip
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
    if spaces.norm == "layer":  # of what is orthogonal to the mean alone
        basis = across(size)
        turn = 1.0 / size + basis @ np.linalg.qr(draw.normal(size=(size - 1, size - 1)))[0] @ basis.T
    gains = {name: draw.uniform(0.5, 1.5, size).astype(np.float32) for name in sorted(set(spaces.before.values()))}
    moved = Transform(transform.units, transform.heads, {}, turn, gains)
    assert not why_illegal(moved, spaces)
    return with_gains(transformed(folded(view, spaces), moved, spaces), spaces, gains)


def planted(name: str, folder: Path) -> tuple[Path, View, Path]:
    """A model with norms drawn at random, what is known of it, and the same one turned."""
    family = BY_NAME[name]
    model = make(family, folder / "model")
    state = load_file(model / "model.safetensors")
    draw = torch.Generator().manual_seed(7)
    for each, value in state.items():
        if value.ndim == 1 and ("norm" in each or ".ln_" in each):
            state[each] = value + 0.3 * torch.randn(value.shape, generator=draw).clamp(-2, 2)
    save_file(state, model / "model.safetensors", metadata={"format": "pt"})
    view = opened(model)[0]
    turned = rotated(view, 1)
    found = written(turned, model, folder / "planted")
    (found / "config.json").write_text(json.dumps(turned.config.plain()))
    return model, view, found


def apart(name: str, one: Path, other: Path) -> float:
    """How far two models' answers are apart, as a share of the largest."""
    first, second = (logits(BY_NAME[name], load(BY_NAME[name], folder)[0]) for folder in (one, other))
    return float((first - second).abs().max() / first.abs().max())


@pytest.mark.parametrize("name", LAYERNORM)
def test_norms_that_take_off_a_mean_do_not_see_a_rotation_around_it(name, tmp_path):
    model, _, turned = planted(name, tmp_path)
    assert apart(name, model, turned) < 1e-4


@pytest.mark.parametrize("name", [*PRENORM, "GPT-2", "Phi", "opt"])
def test_a_planted_rotation_is_found_and_answers_stay(name, tmp_path):
    folder, view, turned = planted(name, tmp_path)
    assert apart(name, folder, turned) < 1e-4
    mergery.align(turned, folder, tmp_path / "out", spaces=SPACES)
    out = opened(tmp_path / "out")[0]
    left = {each: float(np.abs(values(node) - values(out.nodes[each])).max()) for each, node in view.nodes.items()}
    assert max(left.values()) < 1e-4, max(left, key=lambda each: left[each])
    assert apart(name, folder, tmp_path / "out") < 1e-4


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


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Gemma 2", "layernorm.weight' does not stand before"),
        ("OLMo 2", "layernorm.weight' does not stand before"),
        ("BERT", "LayerNorm.weight' does not stand before"),
        ("olmo", "no norm with gains of its own"),
    ],
)
def test_norms_that_see_a_rotation_refuse_it(name, reason, tmp_path):
    folder = make(BY_NAME[name], tmp_path / "model")
    with pytest.raises(MergeryError, match="cannot be rotated") as caught:
        mergery.align(folder, folder, Path(tmp_path / "out"), spaces=["rotation"])
    assert reason in str(caught.value)


def test_opt_with_norms_behind_its_blocks_is_refused():
    before, why = norms_before([], lambda piece: False, {"do_layer_norm_before": False}.get)
    assert not before
    assert "do_layer_norm_before is false" in why


def test_a_rotation_that_moves_the_mean_is_refused(tmp_path):
    _, spaces = opened(make(BY_NAME["GPT-2"], tmp_path / "model"))
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 32)))[0]
    assert "take off the mean" in why_illegal(Transform(rotation=turn), spaces)


def test_the_best_turn_around_the_mean_is_the_planted_one():
    draw, basis = np.random.default_rng(0), across(6)
    assert np.allclose(basis.T @ basis, np.eye(5))
    assert np.allclose(basis.sum(0), 0)
    turn = 1 / 6 + basis @ np.linalg.qr(draw.normal(size=(5, 5)))[0] @ basis.T
    other = draw.normal(size=(6, 40))
    found, best = best_turn(turn @ other @ other.T, mean=True)
    assert np.allclose(found, turn)
    assert np.allclose(found.sum(1), 1)
    assert np.isclose(best, (turn @ other @ other.T * turn).sum())

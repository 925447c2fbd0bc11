"""Zips in recipes: whole and up to a layer, against the block matrices of the paper; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mergery as package
from mergery.alignment.soft.zipping import grouped
from mergery.errors import MergeryError
from mergery.testing.families.making import load, logits, make
from mergery.testing.symmetries import random_transform
from mergery.views.transforms import Transform, Units, transformed
from tests.alignment.matching.test_activations import texts, tokenized
from tests.alignment.soft.test_fusing import BY_NAME, chain, rows
from tests.views.test_transforms import opened, written


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def zipped(root: Path, merge: dict[str, object] | None = None, **more: object) -> dict[str, np.ndarray]:
    align = {"to": "a", "method": "zip", "data": str(root / rows(root)), "samples": 400, **more}
    recipe = {"models": {"a": root / "a", "b": root / "b"}, "merge": merge or {"method": "linear"}, "align": align}
    return {name: value.double().numpy() for name, value in package.merge(recipe).items()}


def state(folder: Path) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in load_file(folder / "model.safetensors").items()}


def block(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.block([
        [one, np.zeros((one.shape[0], other.shape[1]))],
        [np.zeros((other.shape[0], one.shape[1])), other],
    ])  # fmt: skip


def of_the_paper(root: Path, **more: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """M and U of each hidden layer, from the activations of both networks."""
    inputs = np.load(root / "inputs.npy")
    found = []
    says = [inputs.astype(np.float64)] * 2
    for layer in range(2):
        for turn, own in enumerate((state(root / "a"), state(root / "b"))):
            says[turn] = np.maximum(says[turn] @ own[f"{layer}.weight"].T + own[f"{layer}.bias"], 0)
        alike = np.asarray(np.corrcoef(np.concatenate(says, 1).T))
        groups = grouped(alike, 8, more.get("budget", 0.125), more.get("decay", 0.3))
        u = np.eye(8)[groups]
        found.append(((u / u.sum(0)).T, u))
    return found


@pytest.mark.parametrize("budget", [0.0, 0.5])
def test_a_zip_is_m_times_both_models_times_u(budget, tmp_path):
    one, other = state(chain(tmp_path / "a", 1)), state(chain(tmp_path / "b", 2))
    found = zipped(tmp_path, budget=budget)
    (m1, u1), (m2, u2) = of_the_paper(tmp_path, budget=budget)
    both = np.full((3, 6), 0.0)
    both[:, :3] = both[:, 3:] = np.eye(3) / 2  # the classes of both are the same
    wanted = {
        "0.weight": m1 @ np.concatenate([one["0.weight"], other["0.weight"]]),
        "0.bias": m1 @ np.concatenate([one["0.bias"], other["0.bias"]]),
        "1.weight": m2 @ block(one["1.weight"], other["1.weight"]) @ u1,
        "1.bias": m2 @ np.concatenate([one["1.bias"], other["1.bias"]]),
        "2.weight": both @ block(one["2.weight"], other["2.weight"]) @ u2,
        "2.bias": both @ np.concatenate([one["2.bias"], other["2.bias"]]),
    }
    for name, value in wanted.items():
        assert np.abs(found[name] - value).max() < 1e-5, name


def test_up_to_a_layer_each_model_keeps_its_own_head(tmp_path):
    one, other = state(chain(tmp_path / "a", 1)), state(chain(tmp_path / "b", 2))
    ((m1, u1), _) = (rows(tmp_path), of_the_paper(tmp_path))[1]
    for name, own, u in (("a", one, u1[:8]), ("b", other, u1[8:])):
        rest = [{"where": {"name": f"{layer}.*"}, "take": name} for layer in (1, 2)]
        found = zipped(tmp_path, {"method": "linear", "parts": rest}, stop=1)
        assert np.abs(found["0.weight"] - m1 @ np.concatenate([one["0.weight"], other["0.weight"]])).max() < 1e-5
        assert np.abs(found["1.weight"] - own["1.weight"] @ u).max() < 1e-5
        assert all(np.array_equal(found[key], own[key]) for key in ("1.bias", "2.weight", "2.bias"))


def test_a_model_and_its_copy_in_another_order_zip_to_the_model(tmp_path):
    view, spaces = opened(chain(tmp_path / "a", 1))
    written(transformed(view, random_transform(spaces, 3), spaces), tmp_path / "a", tmp_path / "b")
    found, wanted = zipped(tmp_path), state(tmp_path / "a")
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_a_language_model_and_its_copy_zip_to_the_model(tmp_path, llamas, mergery):
    """Channels and neurons have changed places; the zip loads in transformers and answers as the model."""
    folder = tokenized(make(BY_NAME["Llama"], tmp_path / "a"), llamas)
    view, spaces = opened(folder)
    planted = random_transform(spaces, 1, ("residual", "mlp"))
    moved = transformed(view, Transform({name: Units(each.order) for name, each in planted.units.items()}), spaces)
    tokenized(written(moved, folder, tmp_path / "b"), llamas)
    texts(tmp_path)
    recipe = tmp_path / "zip.yaml"
    align = "{to: a, method: zip, data: texts.jsonl, spaces: [residual, mlp]}"
    recipe.write_text(f"models: {{a: ./a, b: ./b}}\nmerge: {{method: linear}}\nalign: {align}\n")
    plan = mergery("plan", recipe)
    assert "a is aligned to a first" not in plan.out
    assert "a is zipped with b first" in plan.out
    assert mergery("merge", recipe, tmp_path / "out").code == 0
    family = BY_NAME["Llama"]
    first = logits(family, load(family, folder)[0])
    assert float((first - logits(family, load(family, tmp_path / "out")[0])).abs().max()) < 1e-4


def test_strangers_are_told_to_have_changed(tmp_path, llamas, mergery):
    for seed, name in enumerate("ab"):
        tokenized(make(BY_NAME["Llama"], tmp_path / name, seed), llamas)
    texts(tmp_path)
    recipe = tmp_path / "zip.yaml"
    recipe.write_text(
        "models: {a: ./a, b: ./b}\nmerge: {method: linear}\nalign: {to: a, method: zip, data: texts.jsonl, stop: 1}\n"
    )
    outcome = mergery("merge", recipe, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "zipped with" in (tmp_path / "out" / "README.md").read_text()
    assert mergery("verify", tmp_path / "out", "--sample", 3).code == 0
    other = load_file(tmp_path / "out" / "model.safetensors")
    halves = [load_file(tmp_path / name / "model.safetensors") for name in "ab"]
    name = "model.layers.1.mlp.up_proj.weight"  # behind the stop: a plain average
    assert torch.allclose(other[name], (halves[0][name] + halves[1][name]) / 2)


MISTAKES = {
    "{to: a, method: zip}": "a zip needs data",
    "{to: a, epsilon: 0.1}": "epsilon is of method: transport",
    "{to: a, method: transport, epsilon: -1}": "epsilon is -1",
    "{to: a, method: transport, join: no_resid}": "join cannot be 'no_resid'",
    "{to: a, method: transport, join: some}": "join is 'some'",
    "{to: a, method: transport, spaces: [experts]}": "transport has no map of 'experts'",
    "{to: a, method: zip, data: x.npy, spaces: [heads]}": "zip has no map of 'heads'",
    "{to: a, method: zip, data: x.npy, stop: 0}": "stop is 0",
    "{to: a, method: zip, data: x.npy, budget: 2}": "budget is 2",
    "{to: mean, method: transport}": "a mean is matched by weights",
    "{to: a, method: transport, spaces: [rotation]}": "transport has no map of 'rotation'",
}


@pytest.mark.parametrize("said", MISTAKES)
def test_what_is_wrong_is_told_with_its_place(said, tmp_path, mergery):
    for seed, name in enumerate("ab"):
        chain(tmp_path / name, seed)
    (tmp_path / "recipe.yaml").write_text(f"models: {{a: ./a, b: ./b}}\nmerge: {{method: linear}}\nalign: {said}\n")
    outcome = mergery("merge", tmp_path / "recipe.yaml", tmp_path / "out")
    assert outcome.code == 2
    assert MISTAKES[said] in outcome.err
    assert "recipe.yaml:3:" in outcome.err


def test_what_cannot_be_zipped_is_refused(tmp_path):
    chain(tmp_path / "a", 1)
    chain(tmp_path / "b", 2, (6, 12, 8, 3))
    with pytest.raises(MergeryError, match="merge models of one architecture"):
        zipped(tmp_path)
    chain(tmp_path / "c", 3)
    chain(tmp_path / "d", 4)
    data = str(tmp_path / "inputs.npy")
    three = {"models": {name: tmp_path / name for name in "acd"}, "merge": {"method": "linear"}}
    with pytest.raises(MergeryError, match="two models are zipped"):
        package.merge({**three, "align": {"to": "a", "method": "zip", "data": data}})
    with pytest.raises(MergeryError, match="a zip is of two models"):
        package.align(tmp_path / "b", tmp_path / "a", tmp_path / "out", method="zip", data=data)
    with pytest.raises(MergeryError, match="nothing can be checked"):
        package.align(tmp_path / "b", tmp_path / "a", tmp_path / "out", method="transport", check=True)


def test_data_of_another_kind_are_refused(tmp_path):
    chain(tmp_path / "a", 1)
    chain(tmp_path / "b", 2)
    with pytest.raises(MergeryError, match="stop is 3"):
        zipped(tmp_path, stop=3)
    np.save(tmp_path / "narrow.npy", np.zeros((10, 5)))
    (tmp_path / "words.npy").write_text("words")
    for name, message in (("narrow.npy", "cannot read the data"), ("words.npy", "are no rows of numbers")):
        with pytest.raises(MergeryError, match=message):
            zipped(tmp_path, data=str(tmp_path / name))
    (tmp_path / "b" / "config.json").write_text(json.dumps({"model_type": "mlp"}))
    with pytest.raises(MergeryError, match="what stands between the matrices of 'b' is not known"):
        zipped(tmp_path)

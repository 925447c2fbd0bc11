"""Functional dual anchors: what their gradient is, that the search finds it, and what refining on them does."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from mergery.calibration import dual
from mergery.calibration.anchors import AnchorOptions, find_anchors, mismatch
from mergery.calibration.blocks import Block
from mergery.calibration.refining import RefineOptions, refine
from tests.calibration.conftest import FAMILIES
from tests.calibration.whole import load, tensors


class Plain(torch.nn.Module):
    """One linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(width, width, device="meta"))

    def forward(self, rows):
        return rows @ self.weight.T


def linear(width: int) -> Block:
    return Block("plain", Plain(width), {"weight": "plain.weight"}, width, False)


def weights(seed: int, width: int, base=None, size: float = 0.1):
    noise = torch.randn(width, width, generator=torch.Generator().manual_seed(seed))
    return {"weight": noise if base is None else base["weight"] + size * noise}


def summed(rows: torch.Tensor) -> torch.Tensor:
    """X^T X."""
    return rows.T @ rows


def test_of_a_linear_layer_the_gradient_is_the_task_vector_times_the_anchors_gram_matrix():
    base = weights(1, 6)
    model, rows = weights(2, 6, base), torch.randn(9, 6, generator=torch.Generator().manual_seed(3))
    delta = model["weight"] - base["weight"]
    steered = {"weight": base["weight"].clone().requires_grad_(True)}
    loss = mismatch(linear(6), steered, model, {"weight": delta}, rows, AnchorOptions(distance="mse"))
    expected = 1.0 - torch.nn.functional.cosine_similarity((delta @ summed(rows)).reshape(-1), delta.reshape(-1), dim=0)
    assert float(loss.detach()) == pytest.approx(float(expected), abs=1e-6)


def test_orthonormal_anchors_match_it_to_the_letter():
    base = weights(1, 6)
    model = weights(2, 6, base)
    steered = {"weight": base["weight"].clone().requires_grad_(True)}
    delta = {"weight": model["weight"] - base["weight"]}
    loss = mismatch(linear(6), steered, model, delta, torch.eye(6), AnchorOptions(distance="mse"))
    assert abs(float(loss.detach())) < 1e-6


@pytest.mark.parametrize("start", ["gauss", "weights"])
@pytest.mark.parametrize("distance", ["cos", "mse", "l1"])
def test_the_search_comes_nearer(start, distance):
    base = weights(1, 8)
    options = AnchorOptions(anchors=16, steps=60, start=start, distance=distance)
    rows, first, last = find_anchors(linear(8), base, weights(2, 8, base), options, "a")
    assert rows.shape == (16, 8)
    assert last < (0.98 if distance == "l1" else 0.8) * first
    again, *_ = find_anchors(linear(8), base, weights(2, 8, base), options, "a")
    assert torch.equal(rows, again)
    other, *_ = find_anchors(linear(8), base, weights(2, 8, base), options, "b")
    assert not torch.equal(rows, other)


def test_a_model_that_has_learnt_nothing_is_left_where_it_begins():
    base = weights(1, 8)
    _, first, last = find_anchors(linear(8), base, base, AnchorOptions(anchors=4, steps=5), "a")
    assert (first, last) == (0.0, 0.0)


def test_refining_a_linear_layer_ends_at_the_minimum_in_closed_form():
    """From the base with squared distances: base + (sum d_i S_i)(sum S_i)^-1, the matrix of the family of RegMean."""
    base = weights(1, 5)
    models = {name: weights(seed, 5, base) for seed, name in ((2, "a"), (3, "b"))}
    rows = {
        name: torch.randn(12, 5, generator=torch.Generator().manual_seed(seed)) for seed, name in ((4, "a"), (5, "b"))
    }
    options = RefineOptions(start="base", rate=3e-3, epochs=1500, batch=64)
    found, before, after = refine(linear(5), base, base, models, rows, options)
    pull = sum((models[name]["weight"] - base["weight"]) @ summed(rows[name]) for name in models)
    expected = base["weight"] + pull @ torch.linalg.inv(sum(summed(each) for each in rows.values()))
    assert torch.allclose(found["weight"], expected, atol=2e-3)
    assert after < before


def test_without_epochs_the_merge_is_itself():
    base = weights(1, 5)
    merged, models, rows = weights(2, 5, base), {"a": weights(3, 5, base)}, {"a": torch.randn(4, 5)}
    found, before, after = refine(linear(5), base, merged, models, rows, RefineOptions(epochs=0))
    assert torch.equal(found["weight"], merged["weight"])
    assert before == after


def test_one_model_that_is_the_merge_stays():
    base = weights(1, 5)
    model = weights(2, 5, base)
    rows = {"a": torch.randn(8, 5, generator=torch.Generator().manual_seed(1))}
    found, before, after = refine(linear(5), base, model, {"a": model}, rows, RefineOptions(epochs=3))
    assert torch.equal(found["weight"], model["weight"])
    assert before == after == pytest.approx(0.0, abs=1e-10)


# --- of real models -------------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(model, tmp_path):
    """A recipe of two fine-tunes of a tiny model of a family."""
    from safetensors.torch import save_file

    def make(family: str):
        base = model(family)
        for seed, name in ((1, "one"), (2, "two")):
            folder = shutil.copytree(base, tmp_path / name)
            torch.manual_seed(seed)
            state = load_file(folder / "model.safetensors")
            state = {
                key: value + 0.05 * torch.randn_like(value) if value.is_floating_point() else value
                for key, value in state.items()
            }
            save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        path = tmp_path / "recipe.yaml"
        models = {"base": str(base), "one": "./one", "two": "./two"}
        merge = {"method": "task_arithmetic", "base": "base", "scale": 0.4}
        path.write_text(yaml.safe_dump({"models": models, "merge": merge}))
        return path

    return make


SMALL = ("--steps", 12, "--count", 8)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_a_merge_is_refined(family, recipe, mergery, tmp_path):
    path, kept = recipe(family), tmp_path / "anchors"
    outcome = mergery("anchors", path, kept, *SMALL)
    assert outcome.code == 0, outcome.err
    card = json.loads((kept / "anchors.json").read_text())
    assert card["whole"] == (family == "bert")
    assert len(card["losses"]) == 4
    assert all(last < first for first, last in card["losses"].values())
    outcome = mergery("refine", path, kept, tmp_path / "refined", "--epochs", 20)
    assert outcome.code == 0, outcome.err
    assert mergery("merge", path, tmp_path / "plain").code == 0
    plain, refined = (load_file(tmp_path / each / "model.safetensors") for each in ("plain", "refined"))
    moved = {name for name in plain if not torch.equal(plain[name], refined[name])}
    inside = "encoder.layer." if family == "bert" else ".mlp."
    assert moved and all(inside in name for name in moved)
    load(tmp_path / "refined", FAMILIES[family][0])
    again = mergery("verify", tmp_path / "refined", "--sample", 8)
    assert again.code == 0, again.err
    lock = json.loads((tmp_path / "refined" / "mergery.lock.json").read_text())
    assert set(lock["refined"]["tensors"]) == moved
    assert f", {len(moved)} merged and refined, and 0 copied" in (tmp_path / "refined" / "README.md").read_text()
    # Closer to every model on its anchors.
    found: list[float] = []
    options = RefineOptions(epochs=20)
    dual.refine_all(
        path, kept, tmp_path / "again", options, on_event=lambda event: found.extend(getattr(event, "losses", []))
    )
    assert all(after < before for before, after in zip(found[::2], found[1::2], strict=True))


def test_no_epochs_are_the_merge(recipe, mergery, tmp_path):
    path, kept = recipe("llama"), tmp_path / "anchors"
    assert mergery("anchors", path, kept, *SMALL).code == 0
    assert mergery("refine", path, kept, tmp_path / "refined", "--epochs", 0).code == 0
    assert mergery("merge", path, tmp_path / "plain").code == 0
    one, other = (tmp_path / each / "model.safetensors" for each in ("plain", "refined"))
    assert one.read_bytes() == other.read_bytes()


def test_a_search_that_was_stopped_goes_on(recipe, mergery, tmp_path, monkeypatch):
    path = recipe("llama")
    assert mergery("anchors", path, tmp_path / "whole", *SMALL).code == 0
    searched = []

    def stop(block, base, model, options, who):
        if len(searched) == 2:
            raise RuntimeError("the power is cut")
        searched.append((block.name, who))
        return find_anchors(block, base, model, options, who)

    monkeypatch.setattr(dual, "find_anchors", stop)
    with pytest.raises(RuntimeError, match="the power is cut"):
        mergery("anchors", path, tmp_path / "anchors", *SMALL)
    before, searched[:] = list(searched), []
    monkeypatch.setattr(dual, "find_anchors", lambda *all: searched.append(all[4]) or find_anchors(*all))
    assert mergery("anchors", path, tmp_path / "anchors", *SMALL).code == 0
    assert (len(before), len(searched)) == (2, 2)
    one, other = tensors(tmp_path / "whole"), tensors(tmp_path / "anchors")
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("family", "said"), [("mixtral", "is a mixture of experts"), ("t5", "anchors are of encoders and of decoders")]
)
def test_models_without_such_blocks(family, said, recipe, mergery, tmp_path):
    outcome = mergery("anchors", recipe(family), tmp_path / "anchors", *SMALL)
    assert outcome.code == 2 and said in outcome.err
    assert not list(tmp_path.glob("anchors*"))


def test_what_is_no_folder_of_anchors(recipe, mergery, tmp_path):
    path = recipe("llama")
    assert "these are no anchors" in mergery("refine", path, tmp_path / "one", tmp_path / "out").err
    assert mergery("anchors", path, tmp_path / "anchors", *SMALL).code == 0
    path.write_text(path.read_text().replace("two: ./two", "two: ./one"))
    assert "anchors of other models" in mergery("refine", path, tmp_path / "anchors", tmp_path / "out").err
    path.write_text(
        path.read_text().replace("base: base\n", "").replace("task_arithmetic", "linear").replace("  scale: 0.4\n", "")
    )
    assert "anchors need a base" in mergery("anchors", path, tmp_path / "more", *SMALL).err

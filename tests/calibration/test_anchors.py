"""Functional dual anchors: what their gradient is, that the search finds it, and what refining on them does."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mergery.calibration.anchors import running
from mergery.calibration.anchors.blocks import Block
from mergery.calibration.anchors.refining import RefineOptions, refine, shares_of
from mergery.calibration.anchors.search import AnchorOptions, find_anchors, mismatch
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
    running.refine_all(
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
    done = mergery("anchors", path, tmp_path / "whole", *SMALL)
    assert done.code == 0 and f"wrote {tmp_path / 'whole'}" in done.err
    again = mergery("anchors", path, tmp_path / "whole", *SMALL)
    assert again.code == 0 and "already there" in again.err
    other = mergery("anchors", path, tmp_path / "whole", *SMALL, "--seed", 1)
    assert other.code == 2 and "no anchors of these models and options" in other.err
    searched = []

    def stop(block, base, model, options, who):
        if len(searched) == 2:
            raise RuntimeError("the power is cut")
        searched.append((block.name, who))
        return find_anchors(block, base, model, options, who)

    monkeypatch.setattr(running, "find_anchors", stop)
    with pytest.raises(RuntimeError, match="the power is cut"):
        mergery("anchors", path, tmp_path / "anchors", *SMALL)
    before, searched[:] = list(searched), []
    monkeypatch.setattr(running, "find_anchors", lambda *all: searched.append(all[4]) or find_anchors(*all))
    assert mergery("anchors", path, tmp_path / "anchors", *SMALL).code == 0
    assert (len(before), len(searched)) == (2, 2)
    one, other = tensors(tmp_path / "whole"), tensors(tmp_path / "anchors")
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    files = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert all((tmp_path / "whole" / name).read_bytes() == (tmp_path / "anchors" / name).read_bytes() for name in files)


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


def test_a_refinement_that_was_stopped_goes_on_and_gives_the_same_bytes(recipe, mergery, tmp_path, monkeypatch):
    path, kept = recipe("bert"), tmp_path / "anchors"
    assert mergery("anchors", path, kept, *SMALL).code == 0
    assert mergery("refine", path, kept, tmp_path / "whole", "--epochs", 4).code == 0
    refined = []

    def stop(block, *rest):
        if refined:
            raise RuntimeError("the power is cut")
        refined.append(block.name)
        return refine(block, *rest)

    monkeypatch.setattr(running, "refine", stop)
    with pytest.raises(RuntimeError, match="the power is cut"):
        mergery("refine", path, kept, tmp_path / "out", "--epochs", 4)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(running, "refine", lambda block, *rest: refined.append(block.name) or refine(block, *rest))
    assert mergery("refine", path, kept, tmp_path / "out", "--epochs", 4).code == 0
    assert len(refined) == 2  # the first block was not refined again
    one, other = (tmp_path / each / "model.safetensors" for each in ("whole", "out"))
    assert one.read_bytes() == other.read_bytes()
    assert not (tmp_path / "out.refined").exists()


def test_the_code_for_gpus_does_the_same(recipe, mergery, tmp_path):
    path = recipe("llama")
    for device in ("cpu", "torch"):
        assert mergery("anchors", path, tmp_path / device, *SMALL, "--device", device).code == 0
        out = tmp_path / f"refined-{device}"
        assert mergery("refine", path, tmp_path / device, out, "--epochs", 3, "--device", device).code == 0
    one, other = (tmp_path / f"refined-{device}" / "model.safetensors" for device in ("cpu", "torch"))
    assert one.read_bytes() == other.read_bytes()
    outcome = mergery("anchors", path, tmp_path / "none", *SMALL, "--device", "cuda:7")
    assert outcome.code == 2 and "there is no device 'cuda:7'" in outcome.err


def test_from_the_models_task_arithmetic_begins_at_its_weights():
    base = weights(1, 5)
    models = {name: weights(seed, 5, base) for seed, name in ((2, "a"), (3, "b"))}
    change = {name: model["weight"] - base["weight"] for name, model in models.items()}
    merged = {"weight": base["weight"] + 0.3 * change["a"] + 0.7 * change["b"]}
    assert shares_of(base, merged, list(models.values())) == pytest.approx([0.3, 0.7], abs=1e-5)
    rows = {
        name: torch.randn(12, 5, generator=torch.Generator().manual_seed(seed)) for seed, name in ((4, "a"), (5, "b"))
    }
    ends = {}
    for start in ("merge", "models"):
        options = RefineOptions(start=start, epochs=200, rate=3e-2, batch=64)
        _, before, ends[start] = refine(linear(5), base, merged, models, rows, options)
        assert ends[start] < before
    assert ends["models"] < ends["merge"]  # it has twice as much to learn with


def test_what_anchors_are_like(recipe, mergery, write, tmp_path):
    path, kept = recipe("bert"), tmp_path / "anchors"
    assert mergery("anchors", path, kept, "--steps", 30, "--count", 16, "--start", "gauss").code == 0
    assert mergery("calibrate", tmp_path / "one", tmp_path / "stats", "--data", write(40)).code == 0
    told = mergery(
        "anchors", "inspect", path, kept, "--statistics", f"one={tmp_path / 'stats'}", "--plot", tmp_path / "a.png"
    )
    assert told.code == 0, told.err
    assert "directions of 90 %" in told.out and (tmp_path / "a.png").stat().st_size > 5000
    facts = json.loads(
        mergery("anchors", "inspect", path, kept, "--statistics", f"one={tmp_path / 'stats'}", "--json").out
    )
    assert len(facts["anchors"]) == 4 and facts["width"] == 32
    for each in facts["anchors"]:
        assert 0.0 < each["kept"] < 1.0
        assert (each["alike"] is None) == (each["model"] == "two")
        assert each["spectrum"][0] == 1.0 and len(each["spectrum"]) == 32
        assert 1 <= each["directions"] < each["directions_at_first"] <= 32  # the tail becomes long


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--statistics", "stats"), "names no model"),
        (("--statistics", "three=stats"), "there are no anchors of a model 'three'"),
        (("--statistics", "one=kept"), "there are no Gram matrices in it"),
        (("--plot", "a.jpeg"), "is of no known kind"),
    ],
)
def test_what_cannot_be_looked_at(words, said, recipe, mergery, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = recipe("bert")
    assert mergery("anchors", path, "kept", "--steps", 1, "--count", 2).code == 0
    outcome = mergery("anchors", "inspect", path, "kept", *words)
    assert outcome.code == 2 and said in outcome.err

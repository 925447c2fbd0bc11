"""OTFusion: planted orders and wider copies come back exactly, a soft map is the paper's mathematics, families load."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mergery.alignment.soft.features import joint_moments
from mergery.alignment.soft.fusing import Fusing
from mergery.alignment.soft.pairing import SoftModels
from mergery.errors import MergeryError
from mergery.recipe.aligning import KINDS, Align
from mergery.testing.families.making import fine_tune, load, logits, make
from mergery.testing.families.table import FAMILIES
from mergery.testing.symmetries import random_transform
from mergery.views.transforms import SoftMap, Transform, transformed
from tests.alignment.matching.test_activations import texts, tokenized
from tests.alignment.matching.test_weights import furthest
from tests.views.test_transforms import opened, values, written

BY_NAME = {family.name: family for family in FAMILIES}


def chain(folder: Path, seed: int, widths: tuple[int, ...] = (6, 8, 8, 3)) -> Path:
    draw = np.random.default_rng(seed)
    folder.mkdir()
    state = {}
    for number, (into, out) in enumerate(itertools.pairwise(widths)):
        state[f"{number}.weight"] = torch.from_numpy(draw.normal(size=(out, into)).astype(np.float32))
        state[f"{number}.bias"] = torch.from_numpy(draw.normal(size=out).astype(np.float32))
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "mlp", "hidden_act": "relu"}))
    return folder


def rows(folder: Path) -> str:
    np.save(folder / "inputs.npy", np.random.default_rng(7).normal(size=(400, 6)))
    return "inputs.npy"


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_a_planted_order_comes_back_exactly(by, tmp_path):
    view, spaces = opened(chain(tmp_path / "one", 1))
    moved = written(transformed(view, random_transform(spaces, 3), spaces), tmp_path / "one", tmp_path / "moved")
    models = SoftModels(view, opened(moved)[0])
    align = Align("one", "transport", data=rows(tmp_path), samples=400)
    moments = joint_moments(models, align, tmp_path, lambda event: None) if by == "activations" else None
    found = Fusing(models, 0.0, KINDS, moments=moments).run()
    assert not found.maps
    assert furthest(view, transformed(models.model, found, models.spaces)) == 0.0


def sinkhorn(cost: np.ndarray, epsilon: float) -> np.ndarray:
    """Plain Sinkhorn of uniform masses, in float64."""
    kernel = np.exp(-cost / epsilon)
    u = v = np.ones(1)
    for _ in range(5000):
        u = 1 / len(cost) / (kernel * v).sum(1)
        v = 1 / len(cost[0]) / (kernel * u[:, None]).sum(0)
    return u[:, None] * kernel * v


def test_a_soft_map_is_otfusion(tmp_path):
    """Layer by layer: inputs through the plan before, Euclidean costs with biases appended, T' W, and T for the next."""
    view = opened(chain(tmp_path / "one", 1))[0]
    model, spaces = opened(chain(tmp_path / "other", 2, (6, 12, 8, 3)))
    found = transformed(model, Fusing(SoftModels(view, model), 0.1, KINDS).run(), spaces)
    one, other = (
        {name: values(node).reshape(node.shape).astype(np.float64) for name, node in each.nodes.items()}
        for each in (view, model)
    )
    into = np.eye(6)
    for layer in range(3):
        weight, bias = other[f"{layer}.weight"] @ into, other[f"{layer}.bias"]
        if layer < 2:
            mine = np.concatenate([one[f"{layer}.weight"], one[f"{layer}.bias"][:, None]], 1)
            theirs = np.concatenate([weight, bias[:, None]], 1)
            cost = np.linalg.norm(mine[:, None] - theirs[None], axis=2)
            plan = sinkhorn(cost / cost.max(), 0.1)
            weight, bias = (plan / plan.sum(1, keepdims=True) @ each for each in (weight, bias))
            into = (plan / plan.sum(0)).T
        for name, wanted in (("weight", weight), ("bias", bias)):
            node = found.nodes[f"{layer}.{name}"]
            assert node.shape == wanted.shape
            assert np.abs(values(node).reshape(node.shape) - wanted).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "by"), [("Llama", "weights"), ("GPT-2", "weights"), ("Phi 3", "weights"), ("Llama", "activations")]
)
def test_planted_symmetries_come_back_from_exact_plans(name, by, tmp_path, llamas):
    """Also heads and matrices of queries and keys: these are matched exactly."""
    folder = tokenized(make(BY_NAME[name], tmp_path / "model"), llamas)
    view, spaces = opened(folder)
    kinds = ("residual", "mlp", "heads", "qk")
    planted = written(transformed(view, random_transform(spaces, 1, kinds), spaces), folder, tmp_path / "planted")
    models = SoftModels(view, opened(tokenized(planted, llamas))[0])
    moments = None
    if by == "activations":
        align = Align("reference", "transport", data=texts(tmp_path))
        moments = joint_moments(models, align, tmp_path, lambda event: None)
    found = Fusing(models, 0.0, kinds, moments=moments).run()
    assert not found.maps
    assert furthest(view, transformed(models.model, found, models.spaces)) < 1e-4


@pytest.mark.parametrize("epsilon", [0.0, 0.002])
def test_heads_of_one_soft_plan_come_back(epsilon, tmp_path):
    """As epsilon goes to nothing, the map of a copy in another order is that order."""
    folder = make(BY_NAME["Llama"], tmp_path / "model")
    view, spaces = opened(folder)
    kinds = ("residual", "mlp", "heads")
    planted = written(transformed(view, random_transform(spaces, 1, kinds), spaces), folder, tmp_path / "planted")
    models = SoftModels(view, opened(planted)[0])
    found = Fusing(models, epsilon, kinds).run()
    assert "layers.0.mixed" in found.maps
    assert furthest(view, transformed(models.model, found, models.spaces)) < 1e-3


def widened(folder: Path, out: Path) -> Path:
    """A Llama with all channels and neurons twice, and each of its heads in two: it computes what it did."""
    view, spaces = opened(folder)
    twice = {
        name: SoftMap(np.repeat(np.eye(spaces.sizes[name].size, dtype=np.float32), 2, axis=0))
        for name in ("residual", *(name for name in spaces.sizes if name.endswith(".mlp")))
    }
    written(transformed(view, Transform(maps=twice), spaces), folder, out)
    config = json.loads((folder / "config.json").read_text())
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    config |= {"head_dim": head, **{key: 2 * config[key] for key in ("hidden_size", "intermediate_size")}}
    (out / "config.json").write_text(json.dumps(config))
    return out


def test_a_wider_copy_comes_back_and_is_merged(tmp_path, mergery, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    family = BY_NAME["Llama"]
    base = make(family, tmp_path / "base")
    wide = widened(fine_tune(base, tmp_path / "tuned", 1), tmp_path / "wide")
    first = logits(family, load(family, tmp_path / "tuned")[0])
    assert float((first - logits(family, load(family, wide)[0])).abs().max()) < 1e-5
    words = ("align", wide, tmp_path / "out", "--to", tmp_path / "base", "--method", "transport", "--epsilon", 0)
    assert mergery(*words, "--dry-run").code == 0
    outcome = mergery(*words)
    assert outcome.code == 0, outcome.err
    tuned, out = (load_file(tmp_path / name / "model.safetensors") for name in ("tuned", "out"))
    assert max(float((tuned[name] - out[name]).abs().max()) for name in tuned) < 1e-6
    assert float((first - logits(family, load(family, tmp_path / "out")[0])).abs().max()) < 1e-5
    assert "loses what it computes" in (tmp_path / "out" / "README.md").read_text()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "models: {base: ./base, wide: ./wide}\nmerge: {method: linear}\nalign: {to: base, method: transport}\n"
    )
    assert "wide is aligned to base first" in mergery("plan", recipe).out
    assert mergery("merge", recipe, tmp_path / "merged").code == 0
    assert logits(family, load(family, tmp_path / "merged")[0]).isfinite().all()


def test_more_heads_than_the_reference_are_averaged(tmp_path):
    """Of eight heads four, of four key heads two: the model loads, and its own copy's heads are among them."""
    family = BY_NAME["Llama"]
    base = make(family, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    more = {key: 2 * config[key] for key in ("num_attention_heads", "num_key_value_heads")}
    other = make(replace(family, config={**family.config, **more, "head_dim": head}), tmp_path / "other")
    import mergery

    mergery.align(other, base, tmp_path / "out", method="transport")
    assert logits(family, load(family, tmp_path / "out")[0]).isfinite().all()
    with pytest.raises(MergeryError, match=r"has other heads in each model"):
        mergery.align(other, base, tmp_path / "no", method="transport", spaces=["residual", "mlp", "qk"])


def test_what_has_no_soft_map_is_refused(tmp_path):
    views = {name: opened(make(BY_NAME[name], tmp_path / name))[0] for name in ("Llama", "Mixtral", "Phi 3")}
    with pytest.raises(MergeryError, match="experts are chosen, not mixed"):
        SoftModels(views["Mixtral"], views["Mixtral"])
    with pytest.raises(MergeryError, match="only one of them has"):
        SoftModels(views["Llama"], views["Phi 3"])
    wide = opened(widened(tmp_path / "Llama", tmp_path / "wide"))[0]
    with pytest.raises(MergeryError, match="would keep another width than the reference's"):
        Fusing(SoftModels(views["Llama"], wide), 0.05, ("mlp",)).run()


def test_a_pooler_of_another_width_is_refused(tmp_path):
    """What it writes is read by the classifier alone, and would keep its width: transformers would not load the output."""
    small = replace(BY_NAME["BERT"], auto="AutoModelForSequenceClassification")
    wide = replace(small, config={**small.config, "hidden_size": 64, "num_attention_heads": 8})
    base, other = (opened(make(each, tmp_path / name))[0] for each, name in ((small, "base"), (wide, "other")))
    with pytest.raises(MergeryError, match=r"what 'bert\.pooler\.dense\.weight' writes is as wide as the stream"):
        SoftModels(base, other)
    assert SoftModels(base, base).other.sizes


def test_a_tied_head_keeps_its_width(tmp_path):
    """Embeddings are averaged over channels that a head sums over: of another width one tensor cannot be both."""
    family = BY_NAME["Qwen 2 tied"]
    size = family.config["hidden_size"]
    wide = replace(family, config={**family.config, "hidden_size": 2 * size, "num_attention_heads": 8})
    base, other = (opened(make(each, tmp_path / name))[0] for each, name in ((family, "base"), (wide, "other")))
    with pytest.raises(MergeryError, match="a head is tied to embeddings"):
        SoftModels(base, other)

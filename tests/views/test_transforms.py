"""Changes of coordinates: what a model computes stays, to the rounding, in every family whose symmetries are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mergery import api
from mergery.architecture.spaces import Spaces
from mergery.architecture.symmetries import SYMMETRIES
from mergery.checkpoints import open_checkpoint
from mergery.engine import Shared, Workspace, evaluator
from mergery.engine.computing import reading
from mergery.errors import MergeryError
from mergery.graph.findings import Findings
from mergery.graph.nodes import Node
from mergery.graph.view import View
from mergery.planning.coordinates import spaces_of
from mergery.planning.models import stored_views
from mergery.recipe.reading import load_recipe
from mergery.testing.families.making import load, logits, make
from mergery.testing.families.table import FAMILIES, B, Family
from mergery.testing.symmetries import random_transform
from mergery.views.transforms import Heads, MemoryTransform, Transform, Units, transformed, why_illegal
from tests.conftest import make_llama

HEAD = {**B, "head_dim": 8}
OPT = {
    "vocab_size": 128, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "word_embed_proj_dim": 32,
}  # fmt: skip
OTHERS = {
    **dict.fromkeys(("olmo", "starcoder2", "stablelm", "cohere", "smollm3", "arcee", "nemotron"), B),
    **dict.fromkeys(("glm", "glm4", "seed_oss", "ministral"), HEAD),
    "opt": OPT,
}
FALCONS = ("Falcon RW", "Falcon 2")  # whose heads lie otherwise
KNOWN = [
    family
    for number, family in enumerate(FAMILIES)
    if family.auto and family.kind in SYMMETRIES
    if family.name in FALCONS or family.kind not in {other.kind for other in FAMILIES[:number]}
]
KNOWN += [Family(kind, "", kind, config) for kind, config in OTHERS.items()]


def opened(folder: Path) -> tuple[View, Spaces]:
    recipe = load_recipe({"models": {"model": str(folder)}, "merge": {"method": "passthrough"}})
    view = stored_views(recipe, {"model": open_checkpoint(folder)}, Findings())["model"]
    return view, spaces_of(view)


def values(node: Node, start: int = 0, stop: int | None = None) -> np.ndarray:
    made = evaluator(node, Shared(), Workspace())
    made.prepare()
    return reading(made)(start, node.elements if stop is None else stop)


def written(view: View, source: Path, folder: Path) -> Path:
    """A view as a model folder."""
    folder.mkdir()
    tensors = load_file(source / "model.safetensors")
    for name, node in view.nodes.items():
        if node.dtype.floating:
            tensors[name] = torch.from_numpy(values(node)).reshape(node.shape)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    return folder


def moved(family: Family, one: Path, two: Path) -> float:
    """How far the logits of two folders are apart, as a share of the largest."""
    first, second = (logits(family, load(family, folder)[0]) for folder in (one, two))
    return float((first - second).abs().max() / first.abs().max())


def test_the_families_that_are_tested_are_those_that_are_known():
    assert {family.kind for family in KNOWN} | {"mlp"} == set(SYMMETRIES)


@pytest.mark.parametrize("family", KNOWN, ids=lambda family: family.name)
def test_a_family_computes_what_it_did(family, tmp_path):
    folder = make(family, tmp_path / "model")
    view, spaces = opened(folder)
    transform = random_transform(spaces, seed=1)
    assert not why_illegal(transform, spaces)
    changed = transformed(view, transform, spaces)
    assert moved(family, folder, written(changed, folder, tmp_path / "changed")) < 5e-6
    back = transformed(changed, transform.inverse(), spaces)
    assert all(np.abs(values(back.nodes[name]) - values(node)).max() < 1e-7 for name, node in view.nodes.items())


LABELLED = [
    ("bert", "SequenceClassification"), ("bert", "NextSentencePrediction"), ("bert", "TokenClassification"),
    ("roberta", "SequenceClassification"), ("roberta", "TokenClassification"), ("llama", "SequenceClassification"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "task"), LABELLED)
def test_a_head_of_labels_reads_the_pooler_where_there_is_one_and_else_the_stream(kind, task, tmp_path):
    config = next(family.config for family in FAMILIES if family.kind == kind)
    family = Family(kind, "", kind, {**config, "num_labels": 3}, f"AutoModelFor{task}")
    folder = make(family, tmp_path / "model")
    view, spaces = opened(folder)
    changed = transformed(view, random_transform(spaces, seed=1), spaces)
    assert "residual" in random_transform(spaces).units
    assert moved(family, folder, written(changed, folder, tmp_path / "changed")) < 5e-6


def test_orders_and_signs_are_taken_back_to_the_bit(tmp_path):
    view, spaces = opened(make_llama(tmp_path / "model", 1, dtype="bfloat16"))
    transform = random_transform(spaces, 2, ("residual", "mlp", "heads"))
    changed = transformed(view, transform, spaces)
    back = transformed(changed, transform.inverse(), spaces)
    for name, node in view.nodes.items():
        assert back.nodes[name].dtype == node.dtype
        assert np.array_equal(values(back.nodes[name]), values(node))
    assert not np.array_equal(values(changed.nodes["lm_head.weight"]), values(view.nodes["lm_head.weight"]))


def test_no_number_depends_on_the_window_in_which_it_is_read(tmp_path):
    view, spaces = opened(make_llama(tmp_path / "model", 1))
    changed = transformed(view, random_transform(spaces, 3), spaces)
    draw = np.random.default_rng(0)
    for node in changed.nodes.values():
        whole = values(node)
        for low, high in np.sort(draw.integers(0, node.elements + 1, (5, 2)), axis=1).tolist():
            assert np.array_equal(values(node, low, high), whole[low:high])


def test_two_changes_after_another_are_one():
    first = Units(np.array([2, 0, 1]), np.array([1, -1, 1], np.float32))
    second = Units(np.array([1, 2, 0]), np.array([-1, 1, 1], np.float32))
    x = np.array([10.0, 20.0, 30.0])
    step = x[first.order] * first.signs
    both = second.after(first)
    assert np.array_equal(x[both.order] * both.signs, step[second.order] * second.signs)
    assert first.inverse().after(first).is_identity


TURNED = np.stack([np.eye(8)] * 2)
TURNED[:, 0, 0] = TURNED[:, 4, 4] = np.cos(1.0)
TURNED[:, 4, 0] = np.sin(1.0)
TURNED[:, 0, 4] = -np.sin(1.0)
SWAP = np.array([1, 0, *range(2, 32)])
ILLEGAL = {
    "a sign of residual is seen by the mean that its norms take off":
        ("gpt2", lambda heads: Transform({"residual": Units(np.arange(32), np.where(SWAP == 1, -1, 1).astype(np.float32))})),
    "a sign of layers.0.mlp is seen by the activation":
        ("gpt2", lambda heads: Transform({"layers.0.mlp": Units(np.arange(128), np.where(np.arange(128) < 9, -1.0, 1.0))})),
    "layers.0.heads: a query head would leave the key head that it belongs to":
        ("llama", lambda heads: Transform({}, {0: replace(heads, queries=np.array([0, 2, 1, 3]))})),
    "layers.0.heads.qk: positions turn coordinates 0 and 4 together, and it is no turn of them":
        ("llama", lambda heads: Transform({}, {0: replace(heads, qk=np.stack([np.eye(8)[[1, 0, *range(2, 8)]]] * 2))})),
    "layers.0.heads.qk: the norms of its queries and keys see all but signs of pairs of coordinates":
        ("qwen3", lambda heads: Transform({}, {0: replace(heads, qk=TURNED)})),
    "layers.0.heads.vo has a matrix without an inverse":
        ("llama", lambda heads: Transform({}, {0: replace(heads, vo=np.zeros((2, 8, 8)))})),
    "residual.order is no order of 32 places":
        ("llama", lambda heads: Transform({"residual": Units(np.zeros(32, np.int64))})),
    "it has no space 'layers.7.mlp'": ("llama", lambda heads: Transform({"layers.7.mlp": Units(np.arange(64))})),
}  # fmt: skip


@pytest.mark.parametrize("reason", ILLEGAL)
def test_what_a_model_would_see_is_refused(reason, tmp_path):
    kind, make_transform = ILLEGAL[reason]
    family = next(family for family in KNOWN if family.kind == kind and not family.config.get("tie_word_embeddings"))
    folder = make(
        Family(kind, "", kind, {**family.config, **({} if kind == "gpt2" else {"head_dim": 8})}), tmp_path / "m"
    )
    view, spaces = opened(folder)
    own = spaces.attention[0]
    transform = make_transform(Heads(np.arange(own.keys), np.arange(own.queries)))
    assert why_illegal(transform, spaces) == reason
    if "inverse" in reason or "no space" in reason or "no order" in reason or "activation" in reason:
        return
    changed = written(transformed(view, transform, spaces), folder, tmp_path / "changed")
    assert moved(family, folder, changed) > 1e-4  # the reason is a real one


def test_a_recipe_takes_a_model_in_other_coordinates(tmp_path, mergery):
    folder = make_llama(tmp_path / "model", 1)
    view, spaces = opened(folder)
    transform = random_transform(spaces, 4)
    kept = tmp_path / "kept"
    kept.mkdir()
    arrays = {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in transform.arrays().items()}
    save_file(arrays, kept / "model.safetensors")
    (kept / "transform.json").write_text(transform.text())
    recipe = tmp_path / "recipe.json"
    models = {"model": {"path": str(folder), "transform": "kept"}}
    recipe.write_text(json.dumps({"models": models, "merge": {"method": "passthrough"}}))
    assert mergery("merge", recipe, tmp_path / "out").code == 0
    assert "taken in other coordinates of 9 of its spaces" in (tmp_path / "out" / "README.md").read_text()
    llama = next(family for family in KNOWN if family.kind == "llama")
    assert moved(llama, folder, tmp_path / "out") < 5e-6
    wanted = transformed(view, transform, spaces)
    made = load_file(tmp_path / "out" / "model.safetensors")
    assert all(np.array_equal(values(wanted.nodes[name]), each.numpy().ravel()) for name, each in made.items())
    assert mergery("verify", tmp_path / "out", "--sample", 5).code == 0


def test_a_transform_of_another_model_and_statistics_beside_one_are_refused(tmp_path):
    folder = make_llama(tmp_path / "model", 1)
    _, spaces = opened(folder)
    transform = replace(random_transform(spaces, 4), facts={"model": {"sha256": "other"}})

    def plan(**more: object) -> None:
        models = {"model": {"path": str(folder), "transform": MemoryTransform(transform), **more}}
        api.plan({"models": models, "merge": {"method": "passthrough"}})

    with pytest.raises(MergeryError, match="this transform is of another model than 'model'"):
        plan()
    with pytest.raises(MergeryError, match="the statistics of 'model' are of the model in its own coordinates"):
        plan(statistics=str(folder))
    with pytest.raises(MergeryError, match="this is no transform"):
        plan(transform=str(folder))
    mamba = make(next(family for family in FAMILIES if family.kind == "mamba"), tmp_path / "mamba")
    with pytest.raises(MergeryError, match="the symmetries of 'model' are not known"):
        plan(path=str(mamba), transform=MemoryTransform(replace(transform, facts={})))

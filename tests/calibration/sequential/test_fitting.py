"""Refining block by block gives what whole models in float64 give: FeatCal and RegMean++, on families of models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import mergery
from mergery.calibration import passes
from tests.calibration.conftest import FAMILIES
from tests.calibration.sequential import reference
from tests.calibration.whole import load, rows_of


@pytest.fixture
def recipe(model, write, tmp_path):
    """A recipe that merges two models of a family and refines the merge: `recipe("llama", "featcal")`."""

    def make(family, refine, **merge):
        data = {
            name: str(write(9, seed=seed, pairs=family == "t5", name=f"{name}.jsonl"))
            for seed, name in ((1, "one"), (2, "two"))
        }
        models = {name: str(model(family, seed)) for seed, name in enumerate(("base", "one", "two"))}
        return {
            "models": models,
            "merge": {"method": "task_arithmetic", "base": "base", "scale": 0.4, **merge},
            "output": {"dtype": "float32"},
            "calibration": {"data": data},
            "refine": refine,
        }

    return make


def wide(folder, family):
    return load(folder, FAMILIES[family][0]).double()


def compare(found, expected, tolerance=2e-4):
    """Weights of a folder with those of a reference, each relative to its largest."""
    for name, value in found.items():
        if name not in expected:
            continue  # spelt otherwise in memory
        own = value.double().numpy()
        assert np.abs(own - expected[name]).max() <= tolerance * max(np.abs(expected[name]).max(), 1e-12), name


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2", "bert", "t5"])
@pytest.mark.parametrize("method", ["featcal", "regmean_plus"])
def test_it_is_what_whole_models_give(family, method, recipe, tmp_path):
    said = recipe(family, method)
    plain = {key: value for key, value in said.items() if key not in ("calibration", "refine")}
    mergery.merge(plain, tmp_path / "host")
    mergery.merge(said, tmp_path / "out")
    host, base, *models = (wide(each, family) for each in (tmp_path / "host", *said["models"].values()))
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    rows = [rows_of(Path(said["calibration"]["data"][name]), host, words) for name in ("one", "two")]
    if method == "featcal":
        expected = reference.featcal(host, base, models, rows, 0.3, 2.0, 0.05)
    else:
        expected = reference.regmean_plus(host, models, rows, 0.9)
    found, before = (load_file(tmp_path / each / "model.safetensors") for each in ("out", "host"))
    compare(found, expected)
    changed = [name for name in found if not torch.equal(found[name], before[name])]
    assert len(changed) >= 8
    assert not [name for name in changed if ("embed" in name and "Norm" not in name) or "lm_head" in name]
    assert any("norm" in name.lower() or "ln_" in name for name in changed) == (method == "featcal")


def test_experts_of_a_mixture(recipe, tmp_path):
    said = recipe("mixtral", "featcal")
    plan = mergery.plan(said)
    assert plan.before
    plan.close()
    mergery.merge(said, tmp_path / "out")
    load(tmp_path / "out", "MixtralForCausalLM")
    lock = json.loads((tmp_path / "out" / "mergery.lock.json").read_text())
    assert len(lock["refined"]["tensors"]) == 2 * (4 + 4 * 3 + 2) + 1


def test_one_block_is_regmean(model, write, tmp_path):
    """RegMean++ has nothing before its first block but the embeddings: where these are the same, it is RegMean there."""
    base = load_file(model("llama") / "model.safetensors")
    models = {}
    for seed, name in ((1, "one"), (2, "two")):
        models[name] = str(shutil.copytree(model("llama", seed), tmp_path / name))
        state = load_file(tmp_path / name / "model.safetensors")
        state["model.embed_tokens.weight"] = base["model.embed_tokens.weight"]
        save_file(state, tmp_path / name / "model.safetensors", {"format": "pt"})
    data = {name: str(write(9, seed=seed, name=f"{name}.jsonl")) for seed, name in ((1, "one"), (2, "two"))}
    said = {"models": models, "output": {"dtype": "float32"}, "calibration": {"data": data}}
    once = mergery.merge({**said, "merge": {"method": "regmean"}})
    plus = mergery.merge({**said, "merge": {"method": "linear"}, "refine": "regmean_plus"})
    same = [name for name in once if torch.allclose(once[name], plus[name], rtol=1e-5, atol=1e-6)]
    differ = set(once) - set(same)
    assert all("layers.1." in name for name in differ) and differ
    assert any("layers.0.mlp" in name for name in same)


def test_models_that_are_alike_are_what_comes_out(model, write, tmp_path):
    data = str(write(30))
    models = {
        "base": str(model("llama")),
        "one": str(model("llama", 1)),
        "two": str(shutil.copytree(model("llama", 1), tmp_path / "copy")),
    }
    said = {
        "models": models,
        "merge": {"method": "task_arithmetic", "base": "base", "scale": 0.5},
        "output": {"dtype": "float32"},
        "calibration": {"data": data},
        "refine": {"method": "featcal", "ridge": 1e-7},
    }
    mergery.merge(said, tmp_path / "out")
    found, expert = wide(tmp_path / "out", "llama"), wide(model("llama", 1), "llama")
    rows = rows_of(Path(data), expert, AutoTokenizer.from_pretrained(model("llama")))
    mine, own = (reference.seen(each, ["lm_head"], rows)["lm_head"] for each in (found, expert))
    assert float((mine - own).abs().max()) < 1e-3 * float(own.abs().max())


def test_a_merge_comes_nearer_to_its_models(recipe, model, tokenizer, tmp_path):
    said = recipe("llama", {"method": "featcal", "ridge": 0.01, "anchor": 1.0})
    mergery.merge(said, tmp_path / "out")
    mergery.merge(
        {key: value for key, value in said.items() if key not in ("calibration", "refine")}, tmp_path / "host"
    )
    gaps = {}
    for which in ("host", "out"):
        merged, gap = wide(tmp_path / which, "llama"), 0.0
        for name in ("one", "two"):
            expert = wide(said["models"][name], "llama")
            rows = rows_of(Path(said["calibration"]["data"][name]), merged, tokenizer)
            last = "model.layers.1.mlp.down_proj"
            mine, own = (reference.seen(each, [last], rows)[last] for each in (merged, expert))
            gap += float((mine - own).square().mean())
        gaps[which] = gap
    assert gaps["out"] < gaps["host"]


def test_hidden_states_in_files_are_the_same(recipe, tmp_path, monkeypatch):
    said = recipe("gpt2", "featcal")
    mergery.merge(said, tmp_path / "memory")
    monkeypatch.setattr(passes, "IN_MEMORY", 0)
    monkeypatch.setattr(passes, "SMALL", 0)
    mergery.merge(said, tmp_path / "files")
    one, other = (load_file(tmp_path / each / "model.safetensors") for each in ("memory", "files"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", ["featcal", "regmean_plus"])
def test_a_run_that_was_killed_goes_on(method, recipe, tmp_path):
    said = recipe("llama", method)
    mergery.merge(said, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(event):
        if getattr(event, "unit", "") == "model.layers.1":
            raise Killed

    with pytest.raises(Killed):
        mergery.merge(said, tmp_path / "out", on_event=kill)
    left = tmp_path / "out.refined"
    stamps = {path.name: path.stat().st_mtime_ns for path in left.glob("*.safetensors")}
    assert len(stamps) == 2 and not (tmp_path / "out").exists()
    times = {}

    def look(event):
        times.update({path.name: path.stat().st_mtime_ns for path in left.glob("*.safetensors")})

    mergery.merge(said, tmp_path / "out", on_event=look)
    assert stamps.items() <= times.items() and not left.exists()
    one, other = (load_file(tmp_path / each / "model.safetensors") for each in ("whole", "out"))
    assert all(torch.equal(one[name], other[name]) for name in one)

"""A recipe that is changed on the command line, or that comes from standard input, is merged and recorded as it was run."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file

SLERP = "models: {a: {llamas}/a, b: {llamas}/b}\nmerge: {method: linear, weight: {a: 1, b: 0}}\n"


def test_a_value_is_merged_recorded_and_verified(mergery, recipe, llamas, tmp_path):
    out = tmp_path / "out"
    done = mergery("merge", recipe(SLERP), out, "--set", "merge.weight.b=1", "--set", "output.dtype=float16", "--quiet")
    assert (done.code, done.err) == (0, "")
    a, b, merged = (load_file(folder / "model.safetensors") for folder in (llamas / "a", llamas / "b", out))
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, ((a[name] + b[name]) / 2).half(), rtol=1e-3, atol=1e-6)
    lock = json.loads((out / "mergery.lock.json").read_text())
    assert lock["recipe"]["merge"]["weight"] == {"a": 1, "b": 1}
    card = (out / "README.md").read_text()
    assert "dtype: float16" in card
    assert "    b: 1\n" in card
    assert mergery("verify", out, "--sample", "3").code == 0


def test_the_same_change_is_the_same_plan_and_another_is_not(mergery, recipe, tmp_path):
    path, out = recipe(SLERP), tmp_path / "out"
    assert mergery("merge", path, out, "--set", "merge.weight.b=1", "--quiet").code == 0
    assert mergery("merge", path, out, "--set", "merge.weight.b=1", "--quiet").code == 0
    outcome = mergery("merge", path, out, "--set", "merge.weight.b=2", "--quiet")
    assert outcome.code == 2
    assert "another plan" in outcome.err


def test_what_is_allowed_and_dropped(mergery, recipe, llamas, tmp_path):
    import shutil

    from safetensors.torch import save_file

    folder = tmp_path / "a"
    shutil.copytree(llamas / "a", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5, "hidden_act": "relu"}))
    tensors = load_file(folder / "model.safetensors") | {"value.weight": torch.zeros(3)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    path = recipe(f"models: {{base: {{llamas}}/base, a: {folder}}}\nmerge: {{method: linear}}\n")
    assert mergery("plan", path).code == 2
    assert mergery("plan", path, "--allow", "hidden_act").code == 2
    done = mergery("plan", path, "--allow", "hidden_act", "--drop", "value.*")
    assert done.code == 0, done.err
    assert "value.weight" in done.out


def test_a_recipe_from_standard_input(mergery, llamas, tmp_path, monkeypatch):
    monkeypatch.chdir(llamas)
    for command in (("plan", "-"), ("import", "-"), ("merge", "-", tmp_path / "out", "--quiet")):
        text = b"models: {a: ./a, b: ./b}\nmerge: {method: linear}\n"
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
        done = mergery(*command)
        assert done.code == 0, done.err
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_recipe_and_output_the_other_way_round(mergery, recipe, tmp_path):
    path = recipe(SLERP)
    outcome = mergery("merge", tmp_path / "out", path)
    assert outcome.code == 2
    assert f"try: mergery merge {path} {tmp_path / 'out'}\n" in outcome.err
    assert path.read_text()


def test_mistakes_of_standard_input_have_a_place(mergery, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"models: {a: ./a}\nmerge: {method: tise}\n")))
    assert "mergery: standard input:2:17: unknown method 'tise'" in mergery("plan", "-").err


def test_nothing_is_a_recipe_called_minus_but_standard_input(mergery, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    outcome = mergery("plan", "-")
    assert outcome.code == 2
    assert "standard input: the recipe is empty" in outcome.err
    assert not list(Path().iterdir())

"""`mergery verify --base B --adapter A` and `--recipe R`: merges of other tools are proven, or what is wrong is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.views.adapters.peft_models import load, merged, model_of, save_adapter

TARGETS = ["q_proj", "down_proj", "embed_tokens"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    model_of("llama").bfloat16().save_pretrained(folder / "base")
    save_adapter(folder / "base", folder / "lora", torch.bfloat16, r=4, lora_alpha=8, target_modules=TARGETS)
    return folder


def changed(source: Path, out: Path, change: Callable[[dict], None]) -> Path:
    shutil.copytree(source, out)
    tensors = load_file(out / "model.safetensors")
    change(tensors)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out


def verdict(mergery, home, folder, *more):
    return mergery("verify", folder, "--base", home / "base", "--adapter", home / "lora", *more)


@pytest.mark.parametrize(
    ("settings", "way"),
    [
        ({}, "peft's merge_and_unload()"),
        ({"safe": True}, "peft's merge_and_unload(safe_merge=True)"),
        ({"dtype": torch.float16}, "peft's merge_and_unload()"),
    ],
)
def test_peft_is_proven_to_the_bit(settings, way, home, tmp_path, mergery):
    merged(home / "base", home / "lora", **settings).save_pretrained(tmp_path / "out")
    done = verdict(mergery, home, tmp_path / "out")
    assert done.code == 0
    assert done.out == f"{tmp_path / 'out'}: proven: all 21 tensors are to the bit what {way} makes\n"


def test_our_own_is_proven_and_the_recipe_too(home, tmp_path, mergery):
    assert mergery("adapter", "bake", home / "base", home / "lora", tmp_path / "out").code == 0
    done = verdict(mergery, home, tmp_path / "out")
    assert done.code == 0
    assert "to the bit what Mergery, with one rounding at the end makes" in done.out
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"models: {{a: {home / 'base'}+{home / 'lora'}}}\nmerge: {{method: passthrough}}\n")
    done = mergery("verify", tmp_path / "out", "--recipe", recipe)
    assert (done.code, "proven" in done.out) == (0, True)


def test_another_way_to_round_is_within_rounding(home, tmp_path, mergery):
    base = load(home / "base", torch.float32)
    base.save_pretrained(tmp_path / "wide")
    merged(tmp_path / "wide", home / "lora").bfloat16().save_pretrained(tmp_path / "out")

    def nudge(tensors):
        name = "model.layers.0.self_attn.q_proj.weight"
        tensors[name] = (tensors[name].float() * (1 + 2**-8)).bfloat16()

    folder = changed(tmp_path / "out", tmp_path / "nudged", nudge)
    done = verdict(mergery, home, folder)
    assert done.code == 0
    assert "within rounding: all 21 tensors are what should be made" in done.out


def test_what_is_wrong_is_told_where_and_by_how_much(home, tmp_path, mergery):
    merged(home / "base", home / "lora").save_pretrained(tmp_path / "out")
    name = "model.layers.1.mlp.down_proj.weight"

    def unscaled(tensors):
        own, base = tensors[name].float(), load_file(home / "base" / "model.safetensors")[name].float()
        tensors[name] = (base + (own - base) / 2).bfloat16()

    done = verdict(mergery, home, changed(tmp_path / "out", tmp_path / "half", unscaled))
    assert done.code == 1
    first, line = done.out.splitlines()
    assert first == f"{tmp_path / 'half'}: wrong: it is not what should be made"
    assert line.startswith(f"  {name}: 1,") and line.endswith(" 5.0e-01 of what was changed")
    without = changed(tmp_path / "out", tmp_path / "without", lambda tensors: tensors.pop(name))
    done = verdict(mergery, home, without)
    assert (done.code, f"  {name}: it is missing" in done.out.splitlines()) == (1, True)
    assert verdict(mergery, home, home / "base").code == 1
    other = changed(
        tmp_path / "out", tmp_path / "other", lambda t: t.update({"model.norm.weight": t["model.norm.weight"] * 2})
    )
    done = verdict(mergery, home, other)
    assert (done.code, "model.norm.weight: " in done.out) == (1, True)
    lines = mergery("verify", other, "--base", home / "base", "--adapter", home / "lora", "--json").out.splitlines()
    told = json.loads(lines[-1])
    assert (told["event"], told["outcome"]) == ("proved", "wrong")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_wrong_in_any_dtype(value, tmp_path, mergery):
    states = {name: {"x.weight": torch.full((4, 4), number)} for name, number in (("a", 1.0), ("b", 2.0), ("out", 1.5))}
    for name, state in states.items():
        (tmp_path / name).mkdir()
        save_file(state, tmp_path / name / "model.safetensors", {"format": "pt"})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"models: {{a: {tmp_path / 'a'}, b: {tmp_path / 'b'}}}\nmerge: {{method: linear}}\n")
    assert mergery("verify", tmp_path / "out", "--recipe", recipe).code == 0

    def broken(tensors):
        tensors["x.weight"][1, 2] = value

    done = mergery("verify", changed(tmp_path / "out", tmp_path / "broken", broken), "--recipe", recipe)
    assert (done.code, "x.weight: 1 elements are off by more than rounding, at most inf at 6" in done.out) == (1, True)


def test_a_change_below_rounding_is_inconclusive(home, tmp_path, mergery):
    shutil.copytree(home / "lora", tmp_path / "faint")
    tensors = load_file(tmp_path / "faint" / "adapter_model.safetensors")
    faint = {name: value * 1e-4 if "lora" in name else value for name, value in tensors.items()}
    save_file(faint, tmp_path / "faint" / "adapter_model.safetensors")
    done = mergery("verify", home / "base", "--base", home / "base", "--adapter", tmp_path / "faint")
    assert done.code == 3
    assert "inconclusive: nothing can be told\n  what was changed is less than a rounding of its dtype\n" in done.out


def test_what_cannot_be_compared(home, tmp_path, mergery):
    done = mergery("verify", home / "base", "--base", home / "base")
    assert (done.code, "--base and --adapter belong together" in done.err) == (2, True)
    codes = {name: value.to(torch.int8) for name, value in load_file(home / "base" / "model.safetensors").items()}
    shutil.copytree(home / "base", tmp_path / "codes")
    save_file(codes, tmp_path / "codes" / "model.safetensors")
    done = verdict(mergery, home, tmp_path / "codes")
    assert (done.code, "this model cannot be compared" in done.err) == (2, True)

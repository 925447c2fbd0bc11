"""Adapters merged into a model by methods on matrices: as factors wherever they are products, whatever stores them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mergery import Options, api
from mergery.graph.products import products
from mergery.planning.plan import Plan
from mergery.run.estimate import merged_of, seconds
from tests.conftest import merge_killed, weights_of
from tests.views.adapters.peft_models import model_of, save_adapter

MOE = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
    "gpt2": {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    "phi3": {"target_modules": ["qkv_proj", "gate_up_proj"]},
    "gpt_neox": {"target_modules": ["query_key_value", "dense"]},
    "qwen3_moe": {"target_modules": ["q_proj"], "target_parameters": MOE},
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two adapters, and the models that these are on it."""
    folder, own = tmp_path_factory.mktemp("home"), KINDS[request.param]
    more = {"phi3": {"pad_token_id": 0, "eos_token_id": 1}, "gpt2": {"bos_token_id": 0, "eos_token_id": 1}}
    model = model_of(request.param, **more.get(request.param, {}))
    model.save_pretrained(folder / "base", save_original_format=request.param != "qwen3_moe")
    for number, name in enumerate(("a", "b")):
        save_adapter(folder / "base", folder / name, seed=number + 1, r=number + 1, lora_alpha=4, **own)
        whole = {"models": {"m": f"{folder / 'base'}+{folder / name}"}, "merge": {"method": "passthrough"}}
        api.merge(whole, folder / f"baked-{name}")
    return folder


def recipe(home: Path, method: str, *, baked: bool = False, **merge: Any) -> dict[str, Any]:
    own = {name: str(home / f"baked-{name}") if baked else f"{home / 'base'}+{home / name}" for name in ("a", "b")}
    return {"models": {"base": str(home / "base"), **own}, "merge": {"method": method, "base": "base"} | merge}


def of_factors(plan: Plan) -> list[bool]:
    """Of all that a method on matrices makes, whether it is made of factors."""
    nodes = [node for step in plan.steps for node in merged_of(step.node) if node.matrices is not None]
    return [products(node) is not None for node in nodes]


@pytest.mark.parametrize(
    ("method", "given"),
    [("dc_merge", {}), ("tsv_merge", {}), ("iso_c", {}), ("swudi_a", {}), ("knots", {"host": "dare_ties", "density": 0.5})],
)  # fmt: skip
def test_the_merge_is_that_of_the_models_that_adapters_make(method: str, given: dict[str, Any], home: Path) -> None:
    said = recipe(home, method, **given)
    assert all(of_factors(api.plan(said)))
    own, dense = api.merge(said), api.merge(recipe(home, method, baked=True, **given))
    base = load_file(home / "base" / "model.safetensors")
    assert not any(of_factors(api.plan(recipe(home, method, baked=True))))
    for name, value in dense.items():
        change = (value - base[name]).norm()
        assert (own[name] - value).norm() <= 1e-5 * change + 1e-6, name


def test_methods_on_entries_are_as_they_were(home: Path) -> None:
    own, dense = (api.merge(recipe(home, "ties", baked=baked)) for baked in (False, True))
    assert all(torch.equal(own[name], value) for name, value in dense.items())


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    model_of("llama").bfloat16().save_pretrained(folder / "base")
    for number, name in enumerate(("a", "b")):
        save_adapter(folder / "base", folder / name, seed=number + 1, r=2, target_modules=["q_proj", "up_proj"])
        whole = {"models": {"m": f"{folder / 'base'}+{folder / name}"}, "merge": {"method": "passthrough"}}
        api.merge(whole | {"output": {"dtype": "float32"}}, folder / f"baked-{name}")
    save_adapter(folder / "base", folder / "dora", r=2, use_dora=True, target_modules=["q_proj"])
    return folder


def test_bytes_depend_on_no_thread_no_window_and_no_end_in_the_middle(llama: Path, tmp_path: Path) -> None:
    said = recipe(llama, "dc_merge") | {"output": {"shard_size": "20kB"}}
    api.merge(said, tmp_path / "calm", options=Options(threads=1))
    api.merge(said, tmp_path / "cut", options=Options(threads=3, chunk=1000))
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(said))
    merge_killed(path, tmp_path / "out")
    assert (tmp_path / "out.partial").is_dir()
    api.merge(path, tmp_path / "out")
    assert weights_of(tmp_path / "calm") == weights_of(tmp_path / "cut") == weights_of(tmp_path / "out")
    assert not api.verify(tmp_path / "out", sample=6)


def test_a_device_of_torch_makes_the_same_but_for_one_rounding(llama: Path) -> None:
    own, other = (api.merge(recipe(llama, "tsv_merge"), options=Options(device=name)) for name in ("cpu", "torch"))
    for name, value in own.items():
        torch.testing.assert_close(other[name], value, rtol=2.0**-7, atol=1e-6)


def test_dora_and_the_roundings_of_peft_are_more_than_products(llama: Path) -> None:
    said = recipe(llama, "iso_c")
    said["models"]["b"] = f"{llama / 'base'}+{llama / 'dora'}"
    changed = of_factors(api.plan(said))
    assert changed.count(False) == 2  # one matrix of each layer
    said = recipe(llama, "iso_c")
    for name in ("a", "b"):
        said["models"][name] = {"path": str(llama / "base"), "adapters": [str(llama / name)], "rounding": "peft"}
    assert of_factors(api.plan(said)).count(False) == 4


def test_a_tensor_under_the_name_of_another_is_not_its_base(llama: Path) -> None:
    first, second = (f"model.layers.{number}.self_attn.q_proj.weight" for number in (0, 1))
    base = {"path": str(llama / "base"), "rename": {first: second, second: first}}
    said, baked = (recipe(llama, "iso_c", baked=each) for each in (False, True))
    said["models"]["base"] = baked["models"]["base"] = base
    assert of_factors(api.plan(said)).count(False) == 2
    own, dense = api.merge(said), api.merge(baked)
    assert all(torch.equal(own[name], dense[name]) for name in (first, second))


def test_a_stage_of_adapters_is_made_of_factors_inside_a_merge(llama: Path) -> None:
    said = recipe(llama, "tsv_merge")
    said["models"]["both"] = {**said.pop("merge"), "models": ["a", "b"], "scale": 1.0}
    said["merge"] = {
        "method": "task_arithmetic",
        "base": "base",
        "models": ["both", "a"],
        "weight": {"both": 1, "a": -1},
    }
    alone = recipe(llama, "tsv_merge", scale=1.0)
    float32 = {"output": {"dtype": "float32"}}
    own, whole = api.merge(said | float32), api.merge(alone | float32)
    name = "model.layers.0.self_attn.q_proj.weight"
    a = api.merge({"models": {"a": said["models"]["a"]}, "merge": {"method": "passthrough"}} | float32)
    base = load_file(llama / "base" / "model.safetensors")
    torch.testing.assert_close(own[name], base[name].float() + whole[name] - a[name], rtol=1e-5, atol=1e-5)


def test_the_plan_says_so_and_asks_for_less(llama: Path, mergery: Any, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe(llama, "dc_merge")))
    assert "cores of rank 4: 2 thin SVDs" in " ".join(mergery("plan", path).out.split())
    plan, full = api.plan(path), api.plan(recipe(llama, "dc_merge", baked=True))
    assert seconds(plan) <= seconds(full)

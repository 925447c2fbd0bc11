"""Adapters of experts made one: peft loads it, and it is what the merge of the models would be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mergery import api
from mergery.run.merging import Result
from tests.views.adapters.peft_models import SMALL, load, logits, model_of, save_adapter, with_adapters

PARAMETERS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
WEIGHT = {"a": 0.5, "b": 2.0}
E = "model.layers.0.mlp.experts"
MIXTRAL = SMALL | {"num_local_experts": 3, "num_experts_per_tok": 2}


def saved(kind: str, folder: Path) -> Path:
    """A base and two adapters on its experts, of different ranks and modules."""
    if kind == "mixtral":
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model("mixtral", **MIXTRAL))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape) * 0.2)
    else:
        model = model_of("qwen3_moe")
    model.save_pretrained(folder / "base", save_original_format=kind != "stacked")
    save_adapter(
        folder / "base",
        folder / "a",
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "gate"],
        target_parameters=PARAMETERS,
    )
    save_adapter(
        folder / "base", folder / "b", seed=2, r=2, target_modules=["q_proj"], target_parameters=PARAMETERS[1:]
    )
    return folder


@pytest.fixture(scope="module", params=["split", "stacked", "mixtral"])
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(request.param, tmp_path_factory.mktemp("home"))


def recipe(home: Path, *names: str, **merge: Any) -> dict[str, Any]:
    models = {"base": str(home / "base"), **{name: f"{home / 'base'}+{home / name}" for name in names}}
    weight = {name: WEIGHT[name] for name in names}
    return {"models": models, "merge": {"method": "task_arithmetic", "base": "base", "weight": weight} | merge}


def written(said: dict[str, Any], out: Path, **adapter: Any) -> Result:
    result = api.merge(said | {"output": {"adapter": adapter or True}}, out)
    assert isinstance(result, Result)
    return result


def test_the_exact_sum_of_experts_loads_in_peft(home: Path, tmp_path: Path) -> None:
    result = written(recipe(home, "a", "b"), tmp_path / "out")
    api.merge(recipe(home, "a", "b"), tmp_path / "model")
    own, dense = logits(with_adapters(home / "base", tmp_path / "out")), logits(load(tmp_path / "model"))
    torch.testing.assert_close(own, dense, rtol=1e-4, atol=1e-5)
    assert (own - logits(load(home / "base"))).abs().max() > 1e-2
    said = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert said["target_parameters"] == PARAMETERS
    assert said["target_modules"] == ["gate", "q_proj"]
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    experts = 3 if "mixtral" in json.loads((home / "base" / "config.json").read_text())["model_type"] else 4
    assert tensors[f"base_model.model.{E}.base_layer.lora_A.weight"].shape == (4 * experts, 32)
    assert tensors[f"base_model.model.{E}.lora_A.weight"].shape[0] == 6 * experts
    assert result.plan.adapter is not None
    assert result.plan.adapter.energies.shares() == pytest.approx({"a": 1.0, "b": 1.0})
    assert not api.verify(tmp_path / "out", sample=4)


def test_adapters_without_a_base_that_is_merged(home: Path, tmp_path: Path) -> None:
    models = {name: f"{home / 'base'}+{home / name}" for name in ("a", "b")}
    said = {"models": models, "merge": {"method": "linear"}}
    written(said, tmp_path / "out")
    api.merge(said, tmp_path / "model")
    own, dense = logits(with_adapters(home / "base", tmp_path / "out")), logits(load(tmp_path / "model"))
    torch.testing.assert_close(own, dense, rtol=1e-4, atol=1e-5)


def test_a_rank_below_the_sum_says_what_is_kept(home: Path, tmp_path: Path) -> None:
    plan = written(recipe(home, "a", "b"), tmp_path / "out", rank=3).plan
    assert plan.adapter is not None
    assert 0.5 < min(plan.adapter.energies.shares().values()) < 1.0
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert tensors[f"base_model.model.{E}.lora_A.weight"].shape[0] % 3 == 0
    logits(with_adapters(home / "base", tmp_path / "out"))


def test_core_space_of_experts_and_a_rank_is_the_best_product_of_each(home: Path, tmp_path: Path) -> None:
    written(recipe(home, "a", "b"), tmp_path / "core", rank=3, space="core")
    written(recipe(home, "a", "b"), tmp_path / "full", rank=3, space="full")
    own, full = (with_adapters(home / "base", tmp_path / name) for name in ("core", "full"))
    torch.testing.assert_close(logits(own), logits(full), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "tsv_merge", "karcher"])
def test_any_method_on_experts(method: str, home: Path, tmp_path: Path) -> None:
    based = {} if method == "karcher" else {"base": "base"}
    said = recipe(home, "a", "b") | {"merge": {"method": method, **based}}
    if not based:
        said["models"].pop("base")
    written(said, tmp_path / "out", rank=6)
    change = logits(with_adapters(home / "base", tmp_path / "out")) - logits(load(home / "base"))
    assert 1e-3 < change.abs().max() < 20


def test_a_fine_tune_of_experts_is_an_adapter_again(home: Path, tmp_path: Path) -> None:
    api.merge(recipe(home, "a", "b"), tmp_path / "model")
    said = {
        "models": {"base": str(home / "base"), "f": str(tmp_path / "model")},
        "merge": {"method": "passthrough", "models": ["f"]},
    }
    plan = written(said, tmp_path / "out", rank=6, base="base").plan
    own, dense = logits(with_adapters(home / "base", tmp_path / "out")), logits(load(tmp_path / "model"))
    torch.testing.assert_close(own, dense, rtol=1e-3, atol=1e-4)
    assert plan.adapter is not None
    assert plan.adapter.energies.shares() == pytest.approx({"the fine-tune": 1.0})


def test_adapters_of_single_experts_become_one_of_all(tmp_path: Path) -> None:
    home = saved("split", tmp_path)
    from safetensors.torch import save_file

    torch.manual_seed(5)
    (home / "c").mkdir()
    (home / "c" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    tensors = {}
    for number in (0, 2):
        for word, (outputs, inputs) in {"gate_proj": (24, 32), "up_proj": (24, 32), "down_proj": (32, 24)}.items():
            stem = f"base_model.model.{E}.{number}.{word}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(2, inputs) * 0.3
            tensors[f"{stem}.lora_B.weight"] = torch.randn(outputs, 2) * 0.3
    save_file(tensors, home / "c" / "adapter_model.safetensors")
    said = {"models": {"c": f"{home / 'base'}+{home / 'c'}"}, "merge": {"method": "passthrough"}}
    written(said, tmp_path / "out")
    api.merge(said, tmp_path / "model")
    own, dense = logits(with_adapters(home / "base", tmp_path / "out")), logits(load(tmp_path / "model"))
    torch.testing.assert_close(own, dense, rtol=1e-4, atol=1e-5)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_parameters"] == [f"{E}.gate_up_proj", f"{E}.down_proj"]
    assert (config["r"], config["rank_pattern"]) == (4, {f"{E}.down_proj": 2})

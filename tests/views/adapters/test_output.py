"""One adapter out of several, or of a fine-tune: it loads in peft, and is what the merge of the models would be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergery import api
from mergery.errors import MergeryError
from mergery.run.merging import Result
from tests.views.adapters.peft_models import load, logits, model_of, save_adapter, with_adapters

Q = "model.layers.0.self_attn.q_proj"
WEIGHT = {"a": 0.5, "b": 2.0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    model_of("llama").save_pretrained(folder / "base")
    save_adapter(folder / "base", folder / "a", r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"])
    more = {"r": 2, "target_modules": ["q_proj", "up_proj", "embed_tokens"]}
    save_adapter(folder / "base", folder / "b", seed=2, lora_alpha=2, **more)
    save_adapter(folder / "base", folder / "c", seed=3, r=3, use_rslora=True, target_modules=["q_proj", "up_proj"])
    tensors = load_file(folder / "b" / "adapter_model.safetensors")
    own = {
        name: value for name, value in tensors.items() if "base_layer" not in name
    }  # of the base, not of the adapter
    save_file(own, folder / "b" / "adapter_model.safetensors")
    return folder


def models(home: Path, *names: str, bare: bool = False) -> dict[str, Any]:
    base: Any = {"adapters": []} if bare else str(home / "base")
    return {"base": base, **{name: str(home / name) if bare else f"{home / 'base'}+{home / name}" for name in names}}


def delta(folder: Path, module: str = Q) -> torch.Tensor:
    tensors, said = (
        load_file(folder / "adapter_model.safetensors"),
        json.loads((folder / "adapter_config.json").read_text()),
    )
    a, b = (tensors[f"base_model.model.{module}.lora_{which}.weight"].double() for which in "AB")
    scale = said["lora_alpha"] / (said["r"] ** 0.5 if said["use_rslora"] else said["r"])
    return (b @ a) * scale


def merged(given: dict[str, Any], out: Path, adapter: Any = True, **merge: Any) -> Result:
    merge = {"method": "task_arithmetic", "base": "base", "weight": WEIGHT} | merge
    result = api.merge({"models": given, "merge": merge, "output": {"adapter": adapter}}, out)
    assert isinstance(result, Result)
    return result


@pytest.mark.parametrize("bare", [False, True])
def test_the_exact_sum_loads_in_peft(bare: bool, home: Path, tmp_path: Path) -> None:
    result = merged(models(home, "a", "b", bare=bare), tmp_path / "out")
    expected = 0.5 * delta(home / "a") + 2.0 * delta(home / "b")
    assert (delta(tmp_path / "out") - expected).norm() < 1e-6 * expected.norm()
    said = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == str(home / "base")
    assert said["target_modules"] == ["down_proj", "embed_tokens", "q_proj", "up_proj"]
    assert result.plan.adapter is not None
    assert result.plan.adapter.energies.shares() == pytest.approx({"a": 1.0, "b": 1.0})
    recipe = {
        "models": models(home, "a", "b"),
        "merge": {"method": "task_arithmetic", "base": "base", "weight": WEIGHT},
    }
    api.merge(recipe, tmp_path / "model")
    own = with_adapters(home / "base", tmp_path / "out")
    torch.testing.assert_close(logits(own), logits(load(tmp_path / "model")), rtol=1e-4, atol=1e-5)
    assert not api.verify(tmp_path / "out", sample=5)
    put_on = {"models": {"m": f"{home / 'base'}+{tmp_path / 'out'}"}, "merge": {"method": "passthrough"}}
    again = api.merge(put_on)
    torch.testing.assert_close(again[f"{Q}.weight"], load(tmp_path / "model").state_dict()[f"{Q}.weight"])  # type: ignore[index]


def test_core_space_and_a_rank_give_the_best_product(home: Path, tmp_path: Path) -> None:
    merged(models(home, "a", "b"), tmp_path / "out", {"rank": 3, "space": "core"})
    expected = 0.5 * delta(home / "a") + 2.0 * delta(home / "b")
    u, s, vh = torch.linalg.svd(expected)
    torch.testing.assert_close(delta(tmp_path / "out"), u[:, :3] * s[:3] @ vh[:3], rtol=1e-4, atol=1e-5)


def test_a_rank_below_the_sum_merges_in_a_shared_basis(home: Path, tmp_path: Path) -> None:
    plan = merged(models(home, "a", "b"), tmp_path / "out", {"rank": 4}).plan
    said = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (said["r"], said["rank_pattern"]["model.embed_tokens"]) == (4, 2)
    assert plan.adapter is not None
    assert 0.5 < min(plan.adapter.energies.shares().values()) < 1.0
    logits(with_adapters(home / "base", tmp_path / "out"))


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "tsv_merge", "knots", "karcher"])
def test_any_method_in_core_space(method: str, home: Path, tmp_path: Path) -> None:
    based = {} if method in ("linear", "karcher") else {"base": "base"}
    given = models(home, "a", "c") if based else {k: v for k, v in models(home, "a", "c").items() if k != "base"}
    recipe = {"models": given, "merge": {"method": method, **based}, "output": {"adapter": {"rank": 6}}}
    api.merge(recipe, tmp_path / "out")
    made = delta(tmp_path / "out")
    assert 0.0 < made.norm() < 5 * (delta(home / "a").norm() + delta(home / "c").norm())
    logits(with_adapters(home / "base", tmp_path / "out"))


def test_full_space_is_the_dense_merge_cut_to_its_rank(home: Path, tmp_path: Path) -> None:
    ties = {"method": "ties", "base": "base", "density": 0.5, "scope": "tensor"}
    merged(models(home, "a", "c"), tmp_path / "out", {"rank": 8, "space": "full"}, **ties, weight=1.0)
    model = api.merge({"models": models(home, "a", "c"), "merge": {**ties, "weight": 1.0}})
    base = load(home / "base").state_dict()[f"{Q}.weight"]
    u, s, vh = torch.linalg.svd((model[f"{Q}.weight"] - base).double())  # type: ignore[index]
    torch.testing.assert_close(delta(tmp_path / "out"), u[:, :8] * s[:8] @ vh[:8], rtol=1e-3, atol=1e-4)


def test_after_pico_an_output_has_the_mean_length_of_its_adapters(home: Path, tmp_path: Path) -> None:
    for rank in ({}, {"rank": 3}):
        merged(models(home, "a", "b"), tmp_path / f"out{len(rank)}", {"calibrate": "pico", **rank}, weight=1.0)
        mean = (delta(home / "a").norm() + delta(home / "b").norm()) / 2
        torch.testing.assert_close(delta(tmp_path / f"out{len(rank)}").norm(), mean)


def test_what_only_factors_have_is_not_asked_of_a_fine_tune(home: Path, tmp_path: Path) -> None:
    api.merge({"models": {"m": f"{home / 'base'}+{home / 'a'}"}, "merge": {"method": "passthrough"}}, tmp_path / "fine")
    given = {"base": str(home / "base"), "fine": str(tmp_path / "fine"), "c": f"{home / 'base'}+{home / 'c'}"}
    sum_of = {"models": given, "merge": {"method": "task_arithmetic", "base": "base"}}
    with pytest.raises(MergeryError, match="calibrate and space can only be had of factors") as raised:
        api.plan(sum_of | {"output": {"adapter": {"rank": 2, "calibrate": "pico", "space": "shared"}}})
    assert "leave out calibrate and space" in str(raised.value)
    with pytest.raises(MergeryError, match="calibrate can only"):
        api.plan(sum_of | {"output": {"adapter": {"calibrate": "pico", "space": "full"}}})
    api.plan(sum_of | {"output": {"adapter": {"rank": 2, "space": "full"}}}).close()


def test_a_base_is_the_same_however_its_place_is_written(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    named = {"base": "./base", "a": "./a", "c": f"{home / 'base'}+./c"}  # ./a stands on the base that it names
    recipe = {"models": named, "merge": {"method": "ties", "base": "base"}, "output": {"adapter": {"space": "core"}}}
    plan = api.plan(recipe)
    assert plan.adapter is not None and plan.adapter.factors[Q].rank == 7 and len(plan.adapter.factors) == 6
    plan.close()


def test_models_in_memory_are_not_one(home: Path, tmp_path: Path) -> None:
    base = load(home / "base").state_dict()
    fine = {name: value + (name == f"{Q}.weight") for name, value in base.items()}
    models = {"base": base, "fine": fine}
    merge = {"method": "passthrough", "models": ["fine"]}
    api.merge({"models": models, "merge": merge, "output": {"adapter": {"base": "base", "rank": 1}}}, tmp_path / "out")
    torch.testing.assert_close(delta(tmp_path / "out"), torch.ones(32, 32).double())


def test_ranks_of_what_is_no_module_are_refused(home: Path) -> None:
    merge = {"method": "task_arithmetic", "base": "base"}
    given = {"models": models(home, "a", "c"), "merge": merge, "output": {"adapter": {"ranks": {"q_proj": 3}}}}
    with pytest.raises(MergeryError, match="ranks names 'q_proj', which is no matrix of this adapter") as raised:
        api.plan(given)
    assert f"such as '{Q}'" in str(raised.value)


def test_what_cannot_be_an_adapter(home: Path, tmp_path: Path) -> None:
    save_adapter(home / "base", tmp_path / "dora", r=2, use_dora=True, target_modules=["q_proj"])
    with pytest.raises(MergeryError, match="the adapter 'd' means nothing without its model"):
        api.plan(
            {
                "models": {"a": str(home / "a"), "d": str(tmp_path / "dora")},
                "merge": {"method": "linear"},
                "output": {"adapter": True},
            }
        )
    shutil.copytree(home / "base", tmp_path / "other")
    fine = {"models": {"a": str(home / "base"), "b": str(tmp_path / "other")}, "merge": {"method": "linear"}}
    with pytest.raises(MergeryError, match="what stands between this merge and a base is not known"):
        api.plan(fine | {"output": {"adapter": True}})
    both = {"models": models(home, "a", "c"), "merge": {"method": "ties", "base": "base"}}
    with pytest.raises(MergeryError, match="a part of a model cannot be an adapter"):
        api.plan(both | {"output": {"adapter": True}}, only=["layers.1"])
    with pytest.raises(MergeryError, match="an adapter cannot have a vocabulary of its own"):
        api.plan(both | {"output": {"adapter": True, "tokenizer": "base"}})
    nothing = {"models": {"a": str(home / "base"), "b": str(home / "base")}, "merge": {"method": "linear", "base": "b"}}
    with pytest.raises(MergeryError, match="rank is 0"):
        api.plan(nothing | {"output": {"adapter": {"rank": 0}}})
    with pytest.raises(MergeryError, match="space is 'kore'"):
        api.plan(nothing | {"output": {"adapter": {"space": "kore"}}})


def test_dora_becomes_the_best_lora_of_a_rank_and_says_what_is_kept(home: Path, tmp_path: Path) -> None:
    """DoRA scales the base's rows: its difference has the rank of the matrix, and only that many ranks hold all of it."""
    save_adapter(home / "base", tmp_path / "d", r=2, use_dora=True, target_modules=["q_proj"])
    dense = with_adapters(home / "base", tmp_path / "d").merge_and_unload()
    base = load(home / "base").state_dict()[f"{Q}.weight"]
    change = (dense.state_dict()[f"{Q}.weight"] - base).double()
    given = {"base": str(home / "base"), "a": f"{home / 'base'}+{home / 'a'}", "d": f"{home / 'base'}+{tmp_path / 'd'}"}
    weight = {"a": 0.0, "d": 1.0}
    plan = merged(given, tmp_path / "all", weight=weight).plan
    assert plan.adapter is not None
    assert plan.adapter.factors[Q].rank == 32
    shares = plan.adapter.energies.shares()
    assert (shares["d"], shares["the merge"]) == pytest.approx((1.0, 1.0))
    torch.testing.assert_close(
        logits(with_adapters(home / "base", tmp_path / "all")), logits(dense), rtol=1e-3, atol=1e-4
    )
    plan = merged(given, tmp_path / "six", {"rank": 6}, weight=weight).plan
    u, s, vh = torch.linalg.svd(change)
    torch.testing.assert_close(delta(tmp_path / "six"), u[:, :6] * s[:6] @ vh[:6], rtol=1e-4, atol=1e-5)
    assert plan.adapter is not None
    held = (s[:6].square().sum() / s.square().sum()).item()
    energies = plan.adapter.energies
    assert energies.held[f"{Q}.weight"]["d"] / energies.whole[f"{Q}.weight"]["d"] == pytest.approx(held, rel=1e-4)
    assert energies.shares()["a"] < 1.0

"""An adapter finds its modules in any spelling, several stand on one base, and what does not fit is said beforehand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergery import Options, api
from mergery.errors import MergeryError, Problems
from tests.views.adapters.peft_models import (
    EXPERTS,
    load,
    logits,
    merged,
    model_of,
    passed,
    save_adapter,
    with_adapters,
)

Q = "model.layers.0.self_attn.q_proj"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def factors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


# --- spellings ------------------------------------------------------------------------------------------------------------


def test_every_way_to_name_a_model_with_an_adapter(base: Path, lora: Path, tmp_path: Path) -> None:
    expected = weights(base)
    for module, half in (("0.self_attn.q_proj", 2.0), ("1.mlp.down_proj", 2.0)):
        a, b = (factors(lora)[f"base_model.model.model.layers.{module}.lora_{which}.weight"] for which in "AB")
        expected[f"model.layers.{module}.weight"] += half * (b @ a)
    forms = [
        f"{base}+{lora}",
        f"{base}+{lora / 'adapter_model.safetensors'}",
        {"path": str(base), "adapters": str(lora)},
        {"path": str(base), "adapters": [str(lora)]},
        str(lora),  # its config names the base
    ]
    for form in forms:
        made = passed(form)
        for name in (f"{Q}.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"):
            torch.testing.assert_close(made[name], expected[name], rtol=1e-6, atol=1e-6)
    torch.save(factors(lora), tmp_path / "adapter_model.bin")
    shutil.copy(lora / "adapter_config.json", tmp_path)
    assert torch.equal(passed(f"{base}+{tmp_path}")[f"{Q}.weight"], passed(forms[0])[f"{Q}.weight"])


def test_mergekit_files_name_adapters(base: Path, lora: Path, tmp_path: Path) -> None:
    for model in (f"{base}+{lora}", f"{{model: '{base}', lora: '{lora}'}}"):
        (tmp_path / "m.yaml").write_text(f"merge_method: passthrough\nmodels:\n  - model: {model}\n")
        plan = api.plan(tmp_path / "m.yaml")
        plan.close()
        assert list(plan.recipe.models) == ["lora"]
        made = api.merge(tmp_path / "m.yaml")
        theirs = merged(base, lora).state_dict()
        assert all(torch.equal(made[name], theirs[name]) for name in theirs)  # type: ignore[index]


KOHYA: dict[str, Callable[[str], str]] = {
    "kohya": lambda name: f"lora_te_{name.replace('.', '_')}.lora_{{}}.weight",
    "diffusers": lambda name: f"text_encoder.{name}.lora_linear_layer.{{}}.weight",
    "diffusers, new": lambda name: f"text_encoder.{name}.lora.{{}}.weight",
}


@pytest.mark.parametrize("alpha", [None, 1.0])
@pytest.mark.parametrize("spelling", KOHYA)
def test_names_of_image_tools(spelling: str, alpha: float | None, base: Path, lora: Path, tmp_path: Path) -> None:
    own, stored = factors(lora), {}
    for name, value in own.items():
        module, _, which = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
        stored[KOHYA[spelling](module).format("down" if which == "A" else "up")] = value
    if alpha is not None:
        names = {name.split(".lora")[0] for name in stored}
        stored |= {f"{name}.alpha": torch.tensor(alpha) for name in names}
    save_file(stored, tmp_path / "x.safetensors")
    a, b = (own[f"base_model.model.{Q}.lora_{which}.weight"] for which in "AB")
    expected = weights(base)[f"{Q}.weight"] + (1.0 if alpha is None else alpha / 4) * (b @ a)
    made = passed(f"{base}+{tmp_path / 'x.safetensors'}")
    torch.testing.assert_close(made[f"{Q}.weight"], expected, rtol=1e-6, atol=1e-6)


def test_convolutions_of_image_tools(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = {"conv.weight": torch.randn(6, 5, 3, 3), "point.weight": torch.randn(6, 5, 1, 1)}
    down, up = torch.randn(2, 5, 3, 3), torch.randn(6, 2, 1, 1)
    point = torch.randn(2, 5, 1, 1), torch.randn(6, 2, 1, 1)
    adapter = {
        "lora_unet_conv.lora_down.weight": down, "lora_unet_conv.lora_up.weight": up, "lora_unet_conv.alpha": torch.tensor(4.0),
        "lora_unet_point.lora_down.weight": point[0], "lora_unet_point.lora_up.weight": point[1],
    }  # fmt: skip
    made = passed({"path": "x", "adapters": []} | {"path": base, "adapters": [adapter]})
    kernel = torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down)
    torch.testing.assert_close(made["conv.weight"], base["conv.weight"] + 2.0 * kernel)
    flat = (point[1].flatten(1) @ point[0].flatten(1))[:, :, None, None]
    torch.testing.assert_close(made["point.weight"], base["point.weight"] + flat)


def test_experts_one_by_one_on_a_stack_and_the_other_way_round(tmp_path: Path) -> None:
    model = model_of("qwen3_moe")
    model.save_pretrained(tmp_path / "split")
    model.save_pretrained(tmp_path / "stacked", save_original_format=False)
    assert "model.layers.0.mlp.experts.gate_up_proj" in weights(tmp_path / "stacked")
    assert "model.layers.0.mlp.experts.3.up_proj.weight" in weights(tmp_path / "split")
    torch.manual_seed(1)
    width = EXPERTS["moe_intermediate_size"]
    module = "base_model.model.model.layers.0.mlp.experts.3.up_proj"
    one = {f"{module}.lora_A.weight": torch.randn(2, 32), f"{module}.lora_B.weight": torch.randn(width, 2)}
    (tmp_path / "one").mkdir()
    save_file(one, tmp_path / "one" / "adapter_model.safetensors")
    (tmp_path / "one" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    save_adapter(tmp_path / "split", tmp_path / "all", r=2, target_modules=["q_proj"], target_parameters=targets)
    for adapter in ("one", "all"):
        split, stacked = (
            api.merge({"models": {"a": f"{tmp_path / form}+{tmp_path / adapter}"}, "merge": {"method": "passthrough"}})
            for form in ("split", "stacked")
        )
        stack = stacked["model.layers.0.mlp.experts.gate_up_proj"][3]  # type: ignore[index]
        for place, half in enumerate(("gate", "up")):
            whole = split[f"model.layers.0.mlp.experts.3.{half}_proj.weight"]  # type: ignore[index]
            torch.testing.assert_close(whole, stack[place * width :][:width], rtol=1e-6, atol=1e-6)
    plain = weights(tmp_path / "stacked")["model.layers.0.mlp.experts.gate_up_proj"][3, width:]
    added = one[f"{module}.lora_B.weight"] @ one[f"{module}.lora_A.weight"]
    made = passed(f"{tmp_path / 'stacked'}+{tmp_path / 'one'}")["model.layers.0.mlp.experts.gate_up_proj"][3, width:]
    torch.testing.assert_close(made, plain + added)


# --- several, and methods over them ---------------------------------------------------------------------------------------


def test_several_adapters_on_one_base(base: Path, lora: Path, other: Path, tmp_path: Path) -> None:
    """As peft's model with both active: DoRA's lengths are those of its own product on the base alone."""
    recipe = {"models": {"a": f"{base}+{lora}+{other}"}, "merge": {"method": "passthrough"}}
    api.merge(recipe, tmp_path / "out")
    torch.testing.assert_close(
        logits(load(tmp_path / "out")), logits(with_adapters(base, lora, other)), rtol=1e-4, atol=1e-5
    )
    recipe["models"]["a"] = {"path": str(base), "adapters": [str(lora), str(other)], "rounding": "peft"}  # type: ignore[index]
    theirs = merged(base, lora, other).state_dict()
    made = api.merge(recipe)
    assert all(torch.equal(made[name], theirs[name]) for name in theirs)  # type: ignore[index]


@pytest.mark.parametrize("method", ["ties", "dare_ties", "slerp", "tsv_merge", "breadcrumbs"])
def test_any_method_sees_what_an_adapter_makes(
    method: str, base: Path, lora: Path, other: Path, tmp_path: Path
) -> None:
    for each in (lora, other):
        api.merge({"models": {"a": f"{base}+{each}"}, "merge": {"method": "passthrough"}}, tmp_path / each.name)
    merge = {"method": method, "models": ["a", "b"], **({} if method == "slerp" else {"base": "base"})}
    base_of = {} if method == "slerp" else {"base": str(base)}
    baked = {**base_of, "a": str(tmp_path / "lora"), "b": str(tmp_path / "other")}
    adapters = {**base_of, "a": f"{base}+{lora}", "b": f"{base}+{other}"}
    expected, made = (api.merge({"models": models, "merge": merge, "seed": 3}) for models in (baked, adapters))
    assert isinstance(expected, dict) and isinstance(made, dict)
    for name, value in expected.items():
        torch.testing.assert_close(made[name], value, rtol=1e-5, atol=1e-6)


def test_bytes_do_not_depend_on_threads_and_windows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight = torch.randn(301, 997).bfloat16()
    pair = {"x.lora_down.weight": torch.randn(3, 997), "x.lora_up.weight": torch.randn(301, 3)}
    models = {"b": {"x.weight": weight}, "a": {"path": {"x.weight": weight}, "adapters": [pair]}}
    for merge in ({"method": "passthrough", "models": ["a"]}, {"method": "ties", "base": "b", "density": 0.3}):
        used = {name: models[name] for name in ("b", "a") if name == "a" or "base" in merge}
        made = [
            api.merge({"models": used, "merge": merge}, options=Options(threads=threads, chunk=chunk))
            for threads, chunk in ((1, 1 << 19), (2, 1 << 16))
        ]
        assert torch.equal(made[0]["x.weight"], made[1]["x.weight"])  # type: ignore[index]


# --- what does not fit ------------------------------------------------------------------------------------------------------


def changed(lora: Path, out: Path, rename: Callable[[dict], dict] = dict, **said: Any) -> Path:
    """An adapter with other tensors, or another config."""
    shutil.copytree(lora, out)
    save_file(rename(factors(lora)), out / "adapter_model.safetensors")
    config = json.loads((lora / "adapter_config.json").read_text()) | said
    (out / "adapter_config.json").write_text(json.dumps(config))
    return out


def refused(model: Any, **said: Any) -> str:
    with pytest.raises(MergeryError) as caught:
        api.plan({"models": {"a": model}, "merge": {"method": "passthrough"}, **said})
    assert not isinstance(caught.value, Problems), "one cause, one message"
    return str(caught.value)


def without(word: str) -> Callable[[dict], dict]:
    return lambda tensors: {name: value for name, value in tensors.items() if word not in name}


def test_adapters_that_do_not_fit_are_refused(base: Path, lora: Path, tmp_path: Path) -> None:
    wide = changed(
        lora, tmp_path / "wide", lambda t: {n: v.repeat(1, 2) if "q_proj.lora_A" in n else v for n, v in t.items()}
    )
    with pytest.raises(Problems, match=r"the adapter .* does not fit 'model.layers.0.self_attn.q_proj.weight' of 'a'"):
        api.plan({"models": {"a": f"{base}+{wide}"}, "merge": {"method": "passthrough"}})
    alien = changed(lora, tmp_path / "alien", lambda t: {n.replace("q_proj", "query"): v for n, v in t.items()})
    text = refused(f"{base}+{alien}")
    assert f"the adapter {str(alien)!r} does not fit 'a'\n" in text
    assert (
        "it changes 'model.layers.0.self_attn.query', 'model.layers.1.self_attn.query', which 'a' does not have" in text
    )
    half = changed(lora, tmp_path / "half", without("layers.0.self_attn.q_proj.lora_B"))
    assert f"the adapter's module {Q!r} lacks a factor\n" in refused(f"{base}+{half}")
    dora = changed(lora, tmp_path / "dora", without("layers.1"), use_dora=True)
    with pytest.raises(Problems, match="lacks its magnitudes"):
        api.plan({"models": {"a": f"{base}+{dora}"}, "merge": {"method": "passthrough"}})
    rank = changed(lora, tmp_path / "rank", without("layers.1"), r=3, target_modules=["q_proj"])
    with pytest.raises(Problems, match="is not what adapter_config"):
        api.plan({"models": {"a": f"{base}+{rank}"}, "merge": {"method": "passthrough"}})


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"peft_type": "LOHA"}, "adapters of type LOHA cannot be merged"),
        ({"init_lora_weights": "pissa"}, "this adapter is for a base whose weights were changed before training"),
        ({"alora_invocation_tokens": [1]}, "it acts only behind certain tokens"),
        ({"layer_replication": [[0, 2]]}, "a model whose layers are repeated"),
    ],
)
def test_kinds_of_adapters_that_are_no_product(said: dict, words: str, base: Path, lora: Path, tmp_path: Path) -> None:
    assert words in refused(f"{base}+{changed(lora, tmp_path / 'x', **said)}")


def test_an_adapter_that_names_another_model(base: Path, lora: Path, tmp_path: Path) -> None:
    moved = changed(lora, tmp_path / "x", base_model_name_or_path="org/Llama-9-unsloth-bnb-4bit")
    models = {}
    for name in ("Llama-9", "other"):
        models[name] = shutil.copytree(base, tmp_path / name)
        config = json.loads((base / "config.json").read_text()) | {"_name_or_path": f"meta/{name}"}
        (models[name] / "config.json").write_text(json.dumps(config))
    passed(f"{models['Llama-9']}+{moved}")
    text = refused(f"{models['other']}+{moved}")
    assert f"the adapter {str(moved)!r} was made for another model than 'a'\n" in text
    assert "its config names org/Llama-9-unsloth-bnb-4bit, and 'a' is meta/other" in text
    passed(f"{models['other']}+{moved}", allow=["adapter_base"])


def test_a_plus_that_names_nothing(base: Path, lora: Path) -> None:
    assert "a model and its adapters stand around each +" in refused(f"{base}+")
    assert "there is no such file or folder" in refused(f"{base}+{lora}x")
    text = refused({"path": str(base), "adapters": [{"x.weight": torch.ones(2, 2)}]})
    assert text.startswith("memory: this is no adapter")
    assert "rounding is 'twice'" in refused({"path": str(base), "adapters": str(lora), "rounding": "twice"})
    assert "rounding says nothing of this model" in refused({"path": str(base), "rounding": "peft"})

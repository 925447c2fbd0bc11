"""AWQ models, made here from the paper: scales are taken back by the base, and what the model computes stays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergery import api
from mergery.errors import MergeryError
from mergery.testing.families import FAMILIES, fine_tune, make
from mergery.testing.families.making import load, logits
from tests.checkpoints.quantised.test_layouts import awq

BY_NAME = {family.name: family for family in FAMILIES}
GROUP = 16


def quantise(weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A matrix [out, in] in AWQ's layout, groups of 16 inputs, and what that stands for."""
    groups = weight.reshape(len(weight), -1, GROUP)
    low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
    scale = ((high - low) / 15).half().float()
    zero = torch.round(-low / scale).clamp(0, 15)
    codes = (torch.round(groups / scale) + zero).clamp(0, 15)
    again = ((codes - zero) * scale).reshape(weight.shape)
    qweight, qzeros = awq(codes.reshape(weight.shape).T.int(), zero[..., 0].T.int())
    return {"qweight": qweight, "qzeros": qzeros, "scales": scale[..., 0].T.half().contiguous()}, again


def smooth(folder: Path, out: Path, *, quantised: bool = True) -> None:
    """Write a model as AWQ does: scales folded into norms and rows, and the matrices quantised."""
    tensors = load_file(folder / "model.safetensors")
    random = torch.Generator().manual_seed(3)

    def scales(size: int) -> torch.Tensor:
        return torch.exp(0.4 * torch.randn(size, generator=random))

    layers = sorted(
        {name.rsplit("input_layernorm", 1)[0] for name in tensors if name.endswith("input_layernorm.weight")}
    )
    for layer in layers:
        for norm, readers in {
            "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
        }.items():
            s = scales(len(tensors[f"{layer}{norm}.weight"]))
            tensors[f"{layer}{norm}.weight"] /= s
            for reader in readers:
                tensors[f"{layer}{reader}.weight"] *= s
        for first, second in (("self_attn.v_proj", "self_attn.o_proj"), ("mlp.up_proj", "mlp.down_proj")):
            one, two = (f"{layer}{each}" for each in (first, second))
            if len(tensors[f"{one}.weight"]) == tensors[f"{two}.weight"].shape[1]:
                s = scales(len(tensors[f"{one}.weight"]))
                tensors[f"{one}.weight"] /= s[:, None]
                tensors[f"{two}.weight"] *= s
                if f"{one}.bias" in tensors:
                    tensors[f"{one}.bias"] /= s
    if quantised:
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            parts, _ = quantise(tensors.pop(name))
            tensors |= {f"{name.removesuffix('weight')}{part}": value for part, value in parts.items()}
    out.mkdir()
    save_file({name: value.contiguous() for name, value in tensors.items()}, out / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    scheme = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True}
    (out / "config.json").write_text(json.dumps({**config, **({"quantization_config": scheme} if quantised else {})}))


def models(folder: Path, name: str, heads: int | None) -> Path:
    """A base, a fine-tune, and that as an AWQ model. With as many key heads as query heads, `v` is smoothed too."""
    family = BY_NAME[name]
    config = family.config | ({"num_key_value_heads": heads} if heads else {})
    make(replace(family, config=config), folder / "base")
    fine_tune(folder / "base", folder / "tuned", 1)
    smooth(folder / "tuned", folder / "awq")
    recipe = folder / "r.yaml"
    recipe.write_text("models: {base: base, awq: awq}\nmerge: {method: task_arithmetic, base: base, scale: 1.0}\n")
    return recipe


@pytest.mark.parametrize(("name", "heads"), [("Llama", None), ("Llama", 4), ("Qwen 2", 4), ("Qwen 3", None)])
def test_the_numbers_come_back_and_the_function_stays(name: str, heads: int | None, tmp_path: Path) -> None:
    recipe = models(tmp_path, name, heads)
    plan = api.plan(recipe)
    assert "AWQ's scales taken back, by the norms and rows of base" in str(plan)
    api.merge(plan, tmp_path / "out")
    found, tuned, base = (load_file(tmp_path / each / "model.safetensors") for each in ("out", "tuned", "base"))
    for key, value in found.items():
        if "layernorm" in key and "layers" in key:
            assert torch.equal(value, base[key]), key
        elif key.endswith("_proj.weight"):
            apart = float((value - tuned[key]).norm() / tuned[key].norm())
            assert apart < 0.2, key  # four bits, and the norms' change
        else:
            assert torch.allclose(value, tuned[key], rtol=0.02, atol=0.01), key
    copy = {"models": {"m": str(tmp_path / "awq")}, "merge": {"method": "passthrough", "models": ["m"]}}
    api.merge(copy, tmp_path / "alone")
    family = BY_NAME[name]
    one, two = (logits(family, load(family, tmp_path / each)[0]) for each in ("alone", "out"))
    assert torch.allclose(one, two, atol=2e-5)


@pytest.mark.parametrize(
    ("word", "name"), [("AWQModifier", "AWQ"), ("SmoothQuantModifier", "SmoothQuant"), ("GPTQModifier", "")]
)
def test_what_llm_compressor_says_it_has_done(word: str, name: str, mergery: Any, tmp_path: Path) -> None:
    make(BY_NAME["Llama"], tmp_path / "base")
    smooth(tmp_path / "base", tmp_path / "plain", quantised=False)
    api.export_quantised(tmp_path / "plain", tmp_path / "m")
    (tmp_path / "m" / "recipe.yaml").write_text(
        f"default_stage:\n  default_modifiers:\n    {word}:\n      ignore: [lm_head]\n"
    )
    recipe = tmp_path / "r.yaml"
    recipe.write_text("models: {base: base, m: m}\nmerge: {method: linear}\n")
    outcome = mergery("plan", recipe)
    assert (outcome.code == 2) == bool(name)
    assert f"'m' is quantised by {name}, and there is no base" in outcome.err or not name
    if name:
        recipe.write_text("models: {base: base, m: m}\nmerge: {method: task_arithmetic, base: base, scale: 1.0}\n")
        assert f"{name}'s scales taken back" in mergery("merge", recipe, tmp_path / "out").err
        found, wanted = (load_file(tmp_path / each / "model.safetensors") for each in ("out", "base"))
        for key, value in wanted.items():
            assert float((found[key] - value).norm() / value.norm()) < 0.02, key


def test_no_number_of_the_smoothed_model_is_comparable(tmp_path: Path) -> None:
    models(tmp_path, "Llama", None)
    copy = {"models": {"m": str(tmp_path / "awq")}, "merge": {"method": "passthrough", "models": ["m"]}}
    api.merge(copy, tmp_path / "alone")
    alone, tuned = (load_file(tmp_path / each / "model.safetensors") for each in ("alone", "tuned"))
    key = "model.layers.0.self_attn.q_proj.weight"
    assert float((alone[key] - tuned[key]).norm() / tuned[key].norm()) > 0.4


def test_windows_change_no_byte(tmp_path: Path) -> None:
    from mergery.run.workers import Options

    recipe = models(tmp_path, "Llama", 4)
    for threads, chunk in ((1, 1 << 16), (2, 1 << 19)):
        api.merge(recipe, tmp_path / str(threads), options=Options(threads, chunk))
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in "12")
    assert one == two


def test_what_cannot_be_undone(mergery: Any, tmp_path: Path) -> None:
    recipe = models(tmp_path, "Llama", None)

    def refused(text: str, *said: str) -> None:
        recipe.write_text(text)
        outcome = mergery("merge", recipe, tmp_path / "out")
        assert outcome.code == 2
        assert all(each in " ".join(outcome.err.split()) for each in said), outcome.err
        assert not (tmp_path / "out").exists()

    linear = "models: {a: awq, b: tuned}\nmerge: {method: linear}\n"
    refused(linear, "'a' is quantised by AWQ, and there is no base", "AWQ moves scales", "as base of the merge")
    refused("models: {a: awq, b: tuned}\nmerge: {method: task_arithmetic, base: a}\n", "there is no base")
    (tmp_path / "stats").mkdir()
    save_file({"w.gram": torch.ones(1)}, tmp_path / "stats" / "model.safetensors")
    refused(
        "models: {base: base, a: {path: awq, statistics: ./stats}}\nmerge: {method: task_arithmetic, base: base}\n",
        "the statistics of 'a' are of a model with AWQ's scales in it", "calibrate that",
    )  # fmt: skip
    config = json.loads((tmp_path / "awq" / "config.json").read_text())
    for name in ("awq", "base"):
        (tmp_path / name / "config.json").write_text(json.dumps({**config, "model_type": "olmo2"}))
    refused(
        "models: {base: base, a: awq}\nmerge: {method: task_arithmetic, base: base}\n",
        "the scales of 'a' cannot be taken back", "it is a olmo2", "llama, mistral",
    )  # fmt: skip


def test_a_base_of_another_kind_is_told_by_its_norms(tmp_path: Path) -> None:
    recipe = models(tmp_path, "Llama", None)
    tensors = load_file(tmp_path / "awq" / "model.safetensors")
    tensors["model.layers.0.input_layernorm.weight"][3] = 0.0
    save_file(tensors, tmp_path / "awq" / "model.safetensors")
    with pytest.raises(MergeryError, match="has zeros where the base has none"):
        api.merge(recipe, tmp_path / "out")

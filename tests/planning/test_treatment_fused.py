"""Under a method on matrices, a fused tensor is what its matrices would be if each stood alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mergery import api, merge_tensors
from mergery.checkpoints.memory import MemoryCheckpoint
from mergery.method import find
from tests.cli.test_end_to_end import load
from tests.conftest import tensors_of, weights_of
from tests.planning.test_treatment import merge_killed_once

RECIPE = "models: {{base: ./base, a: ./a, b: ./b}}\nmerge: {{base: base, {}}}\n"
WIDE, HEADS, SIZE, INNER, EXPERTS = 16, 4, 4, 24, 3
COMMON = {
    "vocab_size": 48, "hidden_size": WIDE, "intermediate_size": INNER, "num_hidden_layers": 2, "num_attention_heads": HEADS,
    "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
BUILD: dict[str, dict[str, object]] = {
    "gpt2": {
        "vocab_size": 48, "n_embd": WIDE, "n_layer": 2, "n_head": HEADS, "n_positions": 16, "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "gpt_neox": COMMON,
    "phi3": COMMON,
    "mixtral": {**COMMON, "num_local_experts": EXPERTS},
    "granitemoe": {**COMMON, "num_local_experts": EXPERTS},
    "gpt_oss": {**COMMON, "num_local_experts": EXPERTS, "num_experts_per_tok": 2, "head_dim": SIZE},
}  # fmt: skip


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with `base` and its fine-tunes `a` and `b`, of one family, made when it is first asked for."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**BUILD[kind]))
            for name in ("base", "a", "b"):
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.add_(torch.randn(parameter.shape) * 0.02)
                model.save_pretrained(made[kind] / name)
        return made[kind]

    return make


def thirds(w: Tensor) -> list[Tensor]:
    """GPT-2: query, key and value side by side, stored [in, out]."""
    return [part.T for part in w.split(WIDE, 1)]


def by_head(w: Tensor) -> list[Tensor]:
    """GPT-NeoX: of each head its query, key and value."""
    rows = w.reshape(HEADS, 3, SIZE, WIDE)
    return [rows[:, turn].reshape(WIDE, WIDE) for turn in range(3)]


def halves(w: Tensor) -> list[Tensor]:
    """Gate above up."""
    return list(w.split(INNER))


WHAT: dict[tuple[str, str], Callable[[Tensor], list[Tensor]]] = {
    ("gpt2", "transformer.h.1.attn.c_attn.weight"): thirds,
    ("gpt2", "transformer.h.0.attn.c_proj.weight"): lambda w: [w.T],
    ("gpt2", "transformer.h.0.mlp.c_fc.weight"): lambda w: [w.T],
    ("gpt_neox", "gpt_neox.layers.1.attention.query_key_value.weight"): by_head,
    ("phi3", "model.layers.0.self_attn.qkv_proj.weight"): lambda w: list(w.split([16, 8, 8])),
    ("phi3", "model.layers.1.mlp.gate_up_proj.weight"): halves,
    ("mixtral", "model.layers.1.block_sparse_moe.experts.2.w1.weight"): lambda w: [w],
    ("granitemoe", "model.layers.0.block_sparse_moe.input_linear.weight"): lambda w: [h for e in w for h in halves(e)],
    ("granitemoe", "model.layers.0.block_sparse_moe.output_linear.weight"): list,
    ("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj"): lambda w: [e.T for e in w],  # gate and up take turns
    ("gpt_oss", "model.layers.1.mlp.experts.down_proj"): lambda w: [e.T for e in w],
}


def merge(mergery: Callable[..., object], home: Path, out: Path, text: str, *options: object) -> dict[str, Tensor]:
    path = home / f"{out.parent.name}{out.name}.yaml"
    path.write_text(RECIPE.format(text))
    outcome = mergery("merge", path, out, *options)
    assert outcome.code == 0, outcome.err  # type: ignore[attr-defined]
    return tensors_of(out)  # type: ignore[return-value]


def inputs(home: Path) -> list[Mapping[str, Tensor]]:
    return [tensors_of(home / name) for name in ("base", "a", "b")]  # type: ignore[misc]


@pytest.mark.parametrize("method", ["iso_c", "swudi_a", "orthomerge"])
@pytest.mark.parametrize("kind", BUILD)
def test_each_matrix_is_merged_by_itself(method, kind, families, mergery, tmp_path):
    home = families(kind)
    out = merge(mergery, home, tmp_path / "out", f"method: {method}")
    load(tmp_path / "out")
    base, a, b = inputs(home)
    assert out.keys() == base.keys()
    for (family, name), apart in WHAT.items():
        if family == kind:
            wanted = [
                merge_tensors(find(method), [x, y], z)
                for x, y, z in zip(*map(apart, (a[name], b[name], base[name])), strict=True)
            ]
            torch.testing.assert_close(apart(out[name]), wanted, rtol=1e-5, atol=1e-6)
    for name in base:  # what is no matrix of a linear layer is averaged
        if base[name].dim() == 1 or name.endswith(("bias", "wte.weight", "embed_tokens.weight", "router.weight")):
            torch.testing.assert_close(out[name], (a[name] + b[name]) / 2, rtol=1e-6, atol=1e-7)


def test_it_is_not_what_the_whole_would_be(families, mergery, tmp_path):
    home = families("gpt_neox")
    name = "gpt_neox.layers.1.attention.query_key_value.weight"
    out = merge(mergery, home, tmp_path / "out", "method: iso_c")
    base, a, b = inputs(home)
    whole = merge_tensors(find("iso_c"), [a[name], b[name]], base[name])
    assert (out[name] - whole).abs().max() > 1e-3


@pytest.mark.parametrize("method", ["iso_c", "ties"])
def test_parts_find_the_roles_inside(method, families, mergery, tmp_path):
    """Weights and biases, under methods by elements too; a head stored with its query and key in turns keeps its place."""
    home = families("gpt_neox")
    scope = ", density: 0.5, scope: tensor" if method == "ties" else ""
    parts = "[{where: {role: attention.q}, take: base}, {where: {role: attention.k, layers: 1}, take: a}]"
    out = merge(mergery, home, tmp_path / "out", f"method: {method}{scope}, parts: {parts}")
    load(tmp_path / "out")
    base, a, _ = inputs(home)
    for layer in range(2):
        for kind, shape in (("weight", (HEADS, 3, SIZE, WIDE)), ("bias", (HEADS, 3, SIZE))):
            name = f"gpt_neox.layers.{layer}.attention.query_key_value.{kind}"
            got, own, other = (tensors[name].reshape(shape) for tensors in (out, base, a))
            assert torch.equal(got[:, 0], own[:, 0])
            assert torch.equal(got[:, 1], other[:, 1]) == (layer == 1)
            assert not torch.equal(got[:, 2], own[:, 2])
            assert not torch.equal(got[:, 2], other[:, 2])


def test_a_part_by_name_gives_a_fused_tensor_another_method(families, mergery, tmp_path):
    """The name is the stored one: it fits each of the parts."""
    home = families("phi3")
    part = "{where: {name: '*.0.*qkv_proj.weight'}, method: iso_c, scale: {where: {role: attention.v}, value: 0.5}}"
    out = merge(mergery, home, tmp_path / "out", f"method: linear, parts: [{part}]")
    base, a, b = inputs(home)
    name = "model.layers.0.self_attn.qkv_proj.weight"
    pieces = zip(*(t[name].split([16, 8, 8]) for t in (a, b, base)), strict=True)
    scales = ("auto", "auto", 0.5)
    wanted = [
        merge_tensors(find("iso_c"), [x, y], z, scale=scale) for (x, y, z), scale in zip(pieces, scales, strict=True)
    ]
    torch.testing.assert_close(out[name], torch.cat(wanted), rtol=1e-5, atol=1e-6)
    other = name.replace("layers.0", "layers.1")
    torch.testing.assert_close(out[other], (a[other] + b[other]) / 2)


def test_parts_of_another_precision_are_rounded_once(families, mergery, tmp_path):
    """In bfloat16 what is taken keeps its bits, and what is merged is rounded at the end."""
    home = families("phi3")
    out = merge(mergery, home, tmp_path / "out", "method: iso_c, parts: [{where: {role: mlp.up}, take: b}], rest: base")
    half = tmp_path / "half"
    half.mkdir()
    for name in ("base", "a", "b"):
        path = half / f"{name}.yaml"
        path.write_text(f"models: {{m: {home / name}}}\nmerge: {{method: passthrough}}\noutput: {{dtype: bfloat16}}\n")
        assert mergery("merge", path, half / name).code == 0
    got = merge(mergery, half, tmp_path / "low", "method: iso_c, parts: [{where: {role: mlp.up}, take: b}], rest: base")
    b = tensors_of(half / "b")
    name = "model.layers.1.mlp.gate_up_proj.weight"
    assert got[name].dtype == torch.bfloat16
    assert torch.equal(got[name][INNER:], b[name][INNER:])
    assert not torch.equal(got[name][:INNER], b[name][:INNER])
    torch.testing.assert_close(got[name].float(), out[name], rtol=0.02, atol=0.02)


def test_experts_and_routers_are_told_apart(families, mergery, tmp_path):
    home = families("granitemoe")
    parts = "[{where: {role: expert, layers: 0}, take: a}, {where: {role: router}, take: base}]"
    out = merge(mergery, home, tmp_path / "out", f"method: swudi_a, parts: {parts}")
    base, a, _ = inputs(home)
    stem = "model.layers.{}.block_sparse_moe.{}.weight"
    for word in ("input_linear", "output_linear"):
        assert torch.equal(out[stem.format(0, word)], a[stem.format(0, word)])
        assert not torch.equal(out[stem.format(1, word)], a[stem.format(1, word)])
    for layer in range(2):
        router = stem.format(layer, "router.layer")
        assert torch.equal(out[router], base[router])


def test_the_plan_names_each_fused_tensor_once(families, mergery, tmp_path):
    home = families("phi3")
    path = home / "plan.yaml"
    path.write_text(RECIPE.format("method: tsv_merge, parts: [{where: {role: attention.q}, take: base}]"))
    facts = json.loads(mergery("plan", path, "--json").out)
    assert sum(group["tensors"] for group in facts["parts"]) == len(tensors_of(home / "base"))
    assert any(group["what"].startswith("copy of base and tsv_merge of a, b on base") for group in facts["parts"])
    assert any("4 tensors are fused: each of their parts is merged by itself" in line for line in facts["warnings"])


@pytest.mark.parametrize("kind", ["gpt2", "granitemoe"])
def test_threads_and_resume_change_nothing(kind, families, mergery, tmp_path):
    home, text = families(kind), "method: knots, host: dare_ties, preset: paper"
    for threads in (1, 2):
        merge(mergery, home, tmp_path / f"out{threads}", text, "--threads", threads)
    calm = weights_of(tmp_path / "out1")
    assert weights_of(tmp_path / "out2") == calm

    path = home / "killed.yaml"
    path.write_text(RECIPE.format(text))
    merge_killed_once(path, tmp_path / "again")
    assert weights_of(tmp_path / "again") == calm


def test_settings_filtered_by_role_reach_inside_fused_tensors(families, mergery, tmp_path):
    """Phi-3 keeps query, key and value in one tensor: a weight of the query's is the query's alone."""
    folder = families("phi3")
    weights = [
        {"where": {"role": "attention.q"}, "value": 0.5},
        {"where": {"role": "mlp.up"}, "value": 0.0},
        {"value": 1.0},
    ]
    models = {name: str(folder / name) for name in ("base", "a", "b")}
    merge = {"method": "task_arithmetic", "base": "base", "weight": weights}
    (tmp_path / "recipe.yaml").write_text(json.dumps({"models": models, "merge": merge}))
    assert mergery("merge", tmp_path / "recipe.yaml", tmp_path / "out").code == 0
    base, a, b, out = (tensors_of(each) for each in (*map(Path, models.values()), tmp_path / "out"))
    for name, factors, rows in (
        ("model.layers.0.self_attn.qkv_proj.weight", (0.5, 1.0, 1.0), (WIDE, 2 * SIZE, 2 * SIZE)),
        ("model.layers.1.mlp.gate_up_proj.weight", (1.0, 0.0), (INNER, INNER)),
        ("model.layers.1.mlp.down_proj.weight", (1.0,), (WIDE,)),
    ):
        whole = (a[name] - base[name]) + (b[name] - base[name])
        parts = [part * factor for part, factor in zip(whole.split(list(rows)), factors, strict=True)]
        torch.testing.assert_close(out[name], base[name] + torch.cat(parts), rtol=0, atol=1e-6)


CONVERTED = "{{base: {{path: ./base, {0}}}, a: {{path: ./a, {0}}}, b: {{path: ./b, {0}}}}}"


@pytest.mark.parametrize("heads", [4, 1])
@pytest.mark.parametrize(
    "text", ["method: tsv_merge", "method: iso_c, parts: [{where: {role: attention.q}, take: base}]"]
)
def test_a_converted_model_is_taken_apart_by_its_new_config(heads, text, families, mergery, tmp_path):
    """The stored config tells of 2 key heads: with them, query, key and value would not be found."""
    home = families("phi3")
    convert = f"convert: {{kv_heads: {heads}}}"
    for name in ("base", "a", "b"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"models: {{m: {{path: {home / name}, {convert}}}}}\nmerge: {{method: passthrough}}\n")
        assert mergery("merge", path, tmp_path / name).code == 0
    wanted = merge(mergery, tmp_path, tmp_path / "wanted", text)

    path = home / f"converted{heads}.yaml"
    path.write_text(f"models: {CONVERTED.format(convert)}\nmerge: {{base: base, {text}}}\n")
    assert mergery("merge", path, tmp_path / "got").code == 0
    plan = mergery("plan", path).out
    assert "4 tensors are fused: each of their parts is merged by itself" in " ".join(plan.split())
    assert "gets no tensor" not in plan
    got, base = tensors_of(tmp_path / "got"), tensors_of(tmp_path / "base")
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-5, atol=1e-6)
    if "take" in text:
        name = "model.layers.1.self_attn.qkv_proj.weight"
        assert torch.equal(got[name][:WIDE], base[name][:WIDE])
        assert not torch.equal(got[name][WIDE:], base[name][WIDE:])


@pytest.mark.parametrize(
    "changes", [{"method": "iso_c"}, {"parts": [{"where": {"role": "attention.q"}, "take": "base"}]}]
)
def test_what_is_fused_in_an_unknown_way_is_told(changes, families):
    home = families("phi3")
    config = json.loads((home / "base" / "config.json").read_text()) | {"num_key_value_heads": 3}
    models = {name: MemoryCheckpoint(tensors_of(home / name), name, config) for name in ("base", "a", "b")}
    plan = api.plan({"models": models, "merge": {"method": "linear", "base": "base", **changes}})
    told = "2 tensors are fused, and config and shape do not say how: each is merged as one tensor"
    assert f"{told} (such as 'model.layers.0.self_attn.qkv_proj.weight')" in plan.warnings
    plain = api.plan({"models": models, "merge": {"method": "linear", "base": "base"}})
    assert not any("fused" in line for line in plain.warnings)  # then it does not matter

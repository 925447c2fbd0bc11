"""Which tensors a method works on, what the others get, and what a recipe says otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mergery import api, merge_tensors
from mergery.method import find
from tests.cli.test_end_to_end import load
from tests.conftest import merge_killed, tensors_of, weights_of

MODELS = "models: {base: {llamas}/base, a: {llamas}/a, b: {llamas}/b}\n"
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Family:
    """A base, its fine-tunes and what was merged of them."""

    def __init__(self, llamas: Path, out: Path) -> None:
        self.base, self.a, self.b = (tensors_of(llamas / name) for name in ("base", "a", "b"))
        self.out = tensors_of(out)

    def made(self, name: str, by: str, **settings: object) -> bool:
        """Whether a tensor is what a method makes of plain tensors."""
        method = find(by)
        wanted = merge_tensors(method, [self.a[name], self.b[name]], self.base[name], **settings)
        return torch.allclose(self.out[name], wanted, rtol=1e-5, atol=1e-7)


@pytest.fixture
def merged(mergery, recipe, tmp_path, llamas) -> Callable[..., Family]:
    """Merge a and b on base as the rest of a recipe says, and load the result as a user would."""

    def run(merge: str, *options: object) -> Family:
        outcome = mergery("merge", recipe(MODELS + f"merge: {{base: base, {merge}}}\n"), tmp_path / "out", *options)
        assert outcome.code == 0, outcome.err
        load(tmp_path / "out")
        return Family(llamas, tmp_path / "out")

    return run


def linear(name: str) -> bool:
    return any(word in name for word in LINEAR)


# --- scope and rest ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tsv_merge", "iso_c", "swudi_a"])
def test_a_method_on_matrices_makes_the_linear_layers_and_the_rest_is_averaged(method, merged):
    family = merged(f"method: {method}")
    assert family.out.keys() == family.base.keys()
    for name in family.out:
        assert family.made(name, method if linear(name) else "linear"), name
    assert not family.made("model.layers.0.mlp.up_proj.weight", "linear")
    assert not family.made("lm_head.weight", method)


def test_the_rest_stays_as_in_the_base(merged):
    family = merged("method: iso_c, rest: base")
    assert all(torch.equal(family.out[name], family.base[name]) for name in family.out if not linear(name))
    assert all(family.made(name, "iso_c") for name in family.out if linear(name))


def test_the_rest_may_be_one_models_own(merged):
    family = merged("method: iso_c, rest: {take: b}")
    assert all(torch.equal(family.out[name], family.b[name]) for name in family.out if not linear(name))


def test_the_rest_by_another_method_with_its_settings(merged):
    family = merged("method: iso_c, rest: {method: ties, density: 0.5, scope: tensor}")
    for name in family.out:
        same = family.made(name, "iso_c") if linear(name) else family.made(name, "ties", density=0.5, scope="tensor")
        assert same, name


def test_weights_go_on_to_the_rest_and_other_settings_do_not(merged):
    family = merged("method: tsv_merge, weight: {a: 3, b: 1}, scale: 0.25")
    norm = family.out["model.norm.weight"]
    assert torch.allclose(norm, 0.75 * family.a["model.norm.weight"] + 0.25 * family.b["model.norm.weight"])
    assert family.made("model.layers.1.mlp.down_proj.weight", "tsv_merge", weight=[3, 1], scale=0.25)


# --- presets ----------------------------------------------------------------------------------------------------------


def test_the_papers_own_choice_takes_in_embeddings_and_head(merged):
    family = merged("method: iso_c, preset: paper")
    for name in family.out:
        rest = {"by": "task_arithmetic", "normalize": True, "scale": 1.3}
        wanted = rest if "norm" in name else {"by": "iso_c", "scale": 1.3}
        assert family.made(name, **wanted), name


def test_a_recipes_settings_and_rest_win_over_the_preset(merged):
    family = merged("method: iso_c, preset: paper, scale: 0.5, rest: base")
    assert family.made("lm_head.weight", "iso_c", scale=0.5)
    assert torch.equal(family.out["model.norm.weight"], family.base["model.norm.weight"])


# --- parts ------------------------------------------------------------------------------------------------------------

PARTS = """method: tsv_merge, parts: [
  {where: {role: attention, layers: 0-1}, method: ties, density: 0.5, scope: tensor},
  {where: {role: attention.q}, take: a},
  {where: {role: embed}, take: base},
  {where: {role: head}, method: iso_c},
  {where: {name: "*.3.mlp.up_proj.*"}, method: linear, weight: {a: 0.25, b: 0.75}}]"""


def test_the_first_part_that_fits_wins(merged):
    family = merged(PARTS)
    for name in family.out:
        layer = name.split(".")[2] if ".layers." in name else ""
        if "attn" in name and layer in ("0", "1"):
            assert family.made(name, "ties", density=0.5, scope="tensor"), name
        elif "q_proj" in name:
            assert torch.equal(family.out[name], family.a[name])
        elif "embed" in name:
            assert torch.equal(family.out[name], family.base[name])
        elif "3.mlp.up_proj" in name:
            assert family.made(name, "linear", weight=[0.25, 0.75])
        elif "lm_head" in name:
            assert family.made(name, "iso_c")
        else:
            assert family.made(name, "tsv_merge" if linear(name) else "linear"), name


def test_methods_by_elements_have_parts_too(merged):
    family = merged("method: ties, scope: tensor, density: 0.5, parts: [{where: {role: norm}, method: linear}]")
    for name in family.out:
        wanted = {"by": "linear"} if "norm" in name else {"by": "ties", "density": 0.5, "scope": "tensor"}
        assert family.made(name, **wanted), name


def test_a_rank_over_the_model_is_over_the_methods_own_tensors(merged, llamas):
    """With the head outside, what is kept of the others is ranked without the head's entries."""
    family = merged("method: ties, density: 0.5, parts: [{where: {role: [embed, head]}, take: base}]")
    inside = [name for name in family.out if "embed" not in name and "lm_head" not in name]
    task = [
        torch.cat([(model[name] - family.base[name]).flatten() for name in inside]) for model in (family.a, family.b)
    ]
    name = "model.layers.2.mlp.up_proj.weight"
    cut = [vector.abs().sort(descending=True).values[len(vector) // 2 - 1] for vector in task]
    delta = [model[name] - family.base[name] for model in (family.a, family.b)]
    kept = [d * (d.abs() >= least) for d, least in zip(delta, cut, strict=True)]
    sign = torch.sign(kept[0] + kept[1])
    consensus = [k * (torch.sign(k) == sign) for k in kept]
    count = sum((k != 0).float() for k in consensus).clamp(min=1)
    torch.testing.assert_close(family.out[name], family.base[name] + sum(consensus) / count, rtol=1e-5, atol=1e-7)


def test_a_part_that_no_tensor_gets_is_told(mergery, recipe):
    parts = (
        "[{where: {role: expert}, take: base}, {where: {role: mlp}, take: a}, {where: {role: mlp.up}, method: linear}]"
    )
    outcome = mergery("plan", recipe(MODELS + f"merge: {{method: ties, base: base, parts: {parts}}}\n"))
    assert outcome.code == 0
    assert "part 1 (role: expert) gets no tensor" in outcome.out
    assert "part 3 (role: mlp.up) gets no tensor" in outcome.out
    assert "part 2" not in outcome.out


def test_what_is_never_merged_can_be_taken_from_a_model(tmp_path, llamas):
    """Buffers and integers are copied from the base, unless a part of the recipe says from whom."""
    models = {name: tensors_of(llamas / name) for name in ("base", "a")}
    for number, tensors in enumerate(models.values()):
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.full((4,), float(number))
        tensors["model.embed_tokens.position_ids"] = torch.full((3,), number)
    parts = [{"where": {"role": "buffer"}, "take": "a"}]
    for given, wanted in (([], 0), (parts, 1)):
        merge = {"method": "ties", "base": "base", **({"parts": given} if given else {})}
        out = api.merge({"models": models, "merge": merge})
        assert isinstance(out, dict)
        assert out["model.layers.0.self_attn.rotary_emb.inv_freq"].tolist() == [wanted] * 4
        assert out["model.embed_tokens.position_ids"].tolist() == [wanted] * 3


def test_a_stage_has_its_own_scope(mergery, recipe, tmp_path):
    """In one recipe as in two runs, one after the other."""
    inner = "method: iso_c, base: base, models: [a, b], rest: base, parts: [{where: {role: head}, take: a}]"
    after = "method: tsv_merge, base: base, models: [middle, c], preset: paper"
    every = "base: {llamas}/base, a: {llamas}/a, b: {llamas}/b, c: {llamas}/c"
    assert mergery("merge", recipe(MODELS + f"merge: {{{inner}}}\n", "one.yaml"), tmp_path / "middle").code == 0
    two = f"models: {{middle: ./middle, base: {{llamas}}/base, c: {{llamas}}/c}}\nmerge: {{{after}}}\n"
    assert mergery("merge", recipe(two, "two.yaml"), tmp_path / "twice").code == 0
    once = f"models: {{{every}, middle: {{{inner}}}}}\nmerge: {{{after}}}\n"
    outcome = mergery("merge", recipe(once), tmp_path / "once")
    assert outcome.code == 0, outcome.err
    assert weights_of(tmp_path / "once") == weights_of(tmp_path / "twice")


def test_slices_of_a_stack_have_parts(mergery, recipe, tmp_path, llamas):
    text = MODELS + "merge:\n  method: tsv_merge\n  base: base\n  rest: base\n"
    text += "  parts: [{where: {layers: 2}, take: a}]\n"
    text += "  stack:\n  - models: {base: 0-1, a: 0-1, b: 0-1}\n    base: base\n"
    text += "  - models: {base: 0-2, a: 1-3, b: 0-2}\n    base: base\n"
    outcome = mergery("merge", recipe(text), tmp_path / "out")
    assert outcome.code == 0, outcome.err
    load(tmp_path / "out")
    a, base, out = (tensors_of(folder) for folder in (llamas / "a", llamas / "base", tmp_path / "out"))
    name = "model.layers.{}.mlp.up_proj.weight"
    assert torch.equal(out[name.format(2)], a[name.format(1)])
    assert not torch.equal(out[name.format(3)], a[name.format(2)])
    norm = "model.layers.{}.input_layernorm.weight"
    assert torch.equal(out[norm.format(3)], base[norm.format(1)])


# --- the same bytes, however it is run ----------------------------------------------------------------------------------


def merge_killed_once(path: Path, out: Path) -> None:
    """Merge, be killed behind the first tensors, and go on."""
    merge_killed(path, out)
    api.merge(path, out)


def test_threads_resume_and_parts_of_the_output_change_nothing(mergery, recipe, tmp_path):
    path = recipe(MODELS + f"merge: {{base: base, {PARTS}}}\noutput: {{shard_size: 30kB}}\n")
    for threads in (1, 2):
        assert mergery("merge", path, tmp_path / f"out{threads}", "--threads", threads).code == 0
    calm = weights_of(tmp_path / "out1")
    assert weights_of(tmp_path / "out2") == calm

    merge_killed_once(path, tmp_path / "again")
    assert weights_of(tmp_path / "again") == calm
    assert mergery("merge", path, tmp_path / "some", "--only", "layers.1", "--only", "head").code == 0
    whole, some = tensors_of(tmp_path / "out1"), tensors_of(tmp_path / "some")
    assert len(some) == 10
    assert all(torch.equal(some[name], whole[name.replace("layers.0.", "layers.1.")]) for name in some)


# --- what is said of it -------------------------------------------------------------------------------------------------


def test_the_plan_says_what_each_group_gets_and_by_which_route(mergery, recipe, llamas):
    parts = "parts: [{where: {role: embed}, take: base}, {where: {role: norm}, method: ties}]"
    path = recipe(MODELS + f"merge: {{method: tsv_merge, base: base, {parts}}}\n")
    groups = json.loads(mergery("plan", path, "--json").out)["parts"]
    assert sum(group["tensors"] for group in groups) == len(tensors_of(llamas / "base"))
    said = {(group["what"].split(" of ")[0], *sorted(group["roles"])) for group in groups}
    assert said == {("tsv_merge", "attention", "mlp"), ("linear", "head"), ("copy", "embed"), ("ties", "norm")}
    route = "2 thin SVDs and 2 polar factors by eigenvectors of the smaller Gram matrix"
    assert [group["route"] for group in groups if "route" in group] == [route]
    assert next(group for group in groups if "route" in group)["tensors"] == 7 * 4
    text = " ".join(mergery("plan", path).out.split())
    assert "28 0-3" in text
    assert "2 thin SVDs" in text
    assert "copy of base" in text


def test_the_card_says_what_tensors_got_and_whom_to_cite(mergery, recipe, tmp_path):
    path = recipe(
        MODELS + "merge: {method: iso_c, base: base, preset: paper, parts: [{where: {role: head}, take: a}]}\n"
    )
    assert mergery("merge", path, tmp_path / "out").code == 0
    card = (tmp_path / "out/README.md").read_text()
    assert "with Mergery: iso_c, task_arithmetic." in card
    assert "- copy of `a`: 1 tensor (head)" in card
    assert "- `task_arithmetic`: 9 tensors (norm)" in card
    assert "- `iso_c`: 29 tensors" in card
    assert "preset: paper" in card
    assert "2502.04959" in card
    assert "2212.04089" in card  # of task arithmetic, which the preset gives the rest

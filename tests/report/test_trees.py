"""`mergery plan --graph`: how a tensor comes to be, node by node."""

from __future__ import annotations

import json

import pytest
import torch

from mergery.checkpoints.memory import MemoryCheckpoint
from mergery.planning.plan import make_plan
from mergery.report.trees import lines, trees

NAME = "model.layers.0.self_attn.q_proj.weight"


def test_a_merge_of_a_merge_as_a_tree(recipe, mergery):
    path = recipe(
        "models: {base: '{llamas}/base', a: '{llamas}/a', b: '{llamas}/b', s: {method: slerp, models: [a, b], t: 0.25}}\n"
        "merge: {method: task_arithmetic, base: base, models: [s, a]}\noutput: {dtype: bfloat16}\n"
    )
    outcome = mergery("plan", path, "--graph", NAME)
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines() == [
        f"{NAME}, written as bfloat16 in model.safetensors",
        "  merged float32 [32, 32]: task_arithmetic (weight 1, scale 0.594604, normalize false)",
        f"    base: stored float32 [32, 32]: {NAME} of base",
        "    s: merged float32 [32, 32]: slerp (t 0.25, weight 1, scope tensor, lerp_above 1, tree chain)",
        f"      a: stored float32 [32, 32]: {NAME} of a",
        f"      b: stored float32 [32, 32]: {NAME} of b",
        f"    a: stored float32 [32, 32]: {NAME} of a",
    ]
    (tree,) = json.loads(mergery("plan", path, "--graph", NAME, "--json").out)
    assert tree["tensor"] == NAME
    assert tree["written"] == {"dtype": "bfloat16", "file": "model.safetensors"}
    node = tree["node"]
    assert (node["kind"], node["method"], node["settings"]["weight"]) == ("merged", "task_arithmetic", [1.0, 1.0])
    assert [each["as"] for each in node["inputs"]] == ["base", "s", "a"]
    assert node["inputs"][1]["inputs"][0] == {
        "as": "a", "kind": "stored", "dtype": "float32", "shape": [32, 32], "name": NAME, "model": "a",
    }  # fmt: skip


def test_a_pattern_names_several_and_what_is_near_a_wrong_name_is_told(recipe, mergery):
    path = recipe("models: {a: '{llamas}/a', b: '{llamas}/b'}\nmerge: {method: linear}\n")
    out = mergery("plan", path, "--graph", "model.layers.[12].*q_proj.weight").out
    assert [line.split(",")[0] for line in out.splitlines() if not line.startswith(" ")] == [
        NAME.replace("0", "1"), NAME.replace("0", "2"),
    ]  # fmt: skip
    for wrong, near in (("model.layers.3.self_attn.q.weight", f"did you mean {NAME!r}?"), ("x", "such as '")):
        outcome = mergery("plan", path, "--graph", wrong)
        assert outcome.code == 2
        assert f"the output has no tensor {wrong!r}" in outcome.err
        assert near in outcome.err


@pytest.fixture
def fused() -> dict[str, MemoryCheckpoint]:
    config = {"model_type": "phi3", "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 8}
    name = "model.layers.0.self_attn.qkv_proj.weight"
    return {each: MemoryCheckpoint({name: torch.randn(16, 8)}, each, config) for each in ("base", "a", "b")}


def test_parts_have_their_names_and_what_stands_twice_stands_once(fused):
    stage = {"method": "linear", "models": ["a", "b"]}
    made = make_plan(
        {"models": {**fused, "s": stage}, "merge": {"method": "iso_c", "base": "base", "models": ["s", "b"]}}
    )
    (tree,) = trees(made, "*")
    name = tree["tensor"]
    assert list(lines(tree)) == [
        f"{name}, written as float32 in model.safetensors",
        "  gathered float32 [16, 8]: 0-63 of [q], 0-31 of [k], 0-31 of [v]",
        "    [q]: merged float32 [8, 8]: iso_c (weight 1, scale auto), 1 matrix of 8 x 8",
        "      base: gathered float32 [8, 8]: 0-63",
        f"        stored float32 [16, 8]: {name} of base",
        "      s: gathered float32 [8, 8]: 0-63",
        "        #5 merged float32 [16, 8]: linear (weight 1, normalize true)",
        f"          a: stored float32 [16, 8]: {name} of a",
        f"          b: stored float32 [16, 8]: {name} of b",
        "      b: gathered float32 [8, 8]: 0-63",
        f"        stored float32 [16, 8]: {name} of b",
        "    [k]: merged float32 [4, 8]: iso_c (weight 1, scale auto), 1 matrix of 4 x 8",
        "      base: gathered float32 [4, 8]: 64-95",
        f"        stored float32 [16, 8]: {name} of base",
        "      s: gathered float32 [4, 8]: 64-95",
        "        merged float32 [16, 8]: see #5 above",
        "      b: gathered float32 [4, 8]: 64-95",
        f"        stored float32 [16, 8]: {name} of b",
        "    [v]: merged float32 [4, 8]: iso_c (weight 1, scale auto), 1 matrix of 4 x 8",
        "      base: gathered float32 [4, 8]: 96-127",
        f"        stored float32 [16, 8]: {name} of base",
        "      s: gathered float32 [4, 8]: 96-127",
        "        merged float32 [16, 8]: see #5 above",
        "      b: gathered float32 [4, 8]: 96-127",
        f"        stored float32 [16, 8]: {name} of b",
    ]
    assert tree["node"]["ranges"][1] == {"of": "[k]", "start": 0, "elements": 32}


def test_zeros_are_named(recipe, llamas):
    text = "models: {{m: {{path: '{llamas}/a', convert: {{intermediate_size: 80}}}}}}\nmerge: {{method: passthrough}}\n"
    made = make_plan(recipe(text.format(llamas=llamas)))
    (tree,) = trees(made, "model.layers.0.mlp.up_proj.weight")
    made.close()
    assert list(lines(tree))[1] == "  gathered float32 [80, 32]: 0-2047, 512 zeros"
    assert tree["node"]["ranges"][1] == {"of": None, "start": 0, "elements": 512}

"""TSV-Compress, packed: a base and two factors of each matrix for each task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tests.conftest import tensors_of

MODELS = "models: {base: {llamas}/base, a: {llamas}/a, b: {llamas}/b, c: {llamas}/c}\n"
SETTINGS = "method: tsv_compress, base: base, scale: {a: 1.0, b: 0.5, c: 1.0}"


@pytest.fixture
def packed(recipe, tmp_path, mergery):
    outcome = mergery("pack", recipe(f"{MODELS}merge: {{{SETTINGS}}}\n"), tmp_path / "packed")
    assert outcome.code == 0, outcome.err
    return outcome


def serve(mergery, recipe, task: str, out: Path) -> dict[str, torch.Tensor]:
    text = f"models: {{m: {{path: ./packed, task: {task}}}}}\nmerge: {{method: passthrough}}\n"
    assert mergery("merge", recipe(text, f"serve-{task}.yaml"), out).code == 0
    return tensors_of(out)


def test_a_packed_task_is_what_the_merge_with_that_task_gives(packed, recipe, tmp_path, mergery, llamas):
    assert "serves a, b, c in" in packed.out
    base = tensors_of(llamas / "base")
    for task in "abc":
        path = recipe(f"{MODELS}merge: {{{SETTINGS}, task: {task}}}\n", f"merge-{task}.yaml")
        assert mergery("merge", path, tmp_path / f"merged-{task}").code == 0
        served, merged = (
            serve(mergery, recipe, task, tmp_path / f"served-{task}"),
            tensors_of(tmp_path / f"merged-{task}"),
        )
        assert served.keys() == merged.keys()
        for name, tensor in merged.items():
            assert float((served[name] - tensor).abs().max()) <= 1e-6 * float(tensor.abs().max())
            changed = ".self_attn." in name or ".mlp." in name
            assert torch.equal(tensor, base[name]) != changed
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "served-b")
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_the_bytes(packed, tmp_path):
    """Of each of 4 layers' matrices, each task keeps a third of the triplets: out and in numbers for each.

    q and o are 32 x 32, k and v 16 x 32, gate, up and down 64 x 32: of each layer a task has 4,640 numbers, in place of 9,216.
    The three tasks' matrices take 222,720 bytes rather than 442,368.
    """
    layer = 10 * 2 * (32 + 32) + 5 * 2 * (16 + 32) + 10 * 3 * (64 + 32)
    weights = tmp_path / "packed/packed.safetensors"
    numbers = sum(tensor.numel() for tensor in load_file(weights).values())
    assert numbers == 3 * 4 * layer == 55_680
    matrices = 4 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32)
    assert (4 * numbers, 4 * 3 * matrices) == (222_720, 442_368)
    assert 4 * numbers < weights.stat().st_size < 4 * numbers + 40_000  # the rest is the header
    assert json.loads((tmp_path / "packed/packed.json").read_text())["method"] == "tsv_compress"


@pytest.fixture
def gpts(tmp_path):
    """GPT-2, whose matrices are stored [in, out], in `base`, `a`, `b`; without the fused ones in `whole-base`, ..."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    for name in ("base", "a", "b"):
        model.save_pretrained(tmp_path / name)
        weights = load_file(tmp_path / name / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if "c_attn.weight" not in name}
        shutil.copytree(tmp_path / name, tmp_path / f"whole-{name}")
        save_file(kept, tmp_path / f"whole-{name}/model.safetensors", metadata={"format": "pt"})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.01)


def test_matrices_stored_the_other_way_round(gpts, recipe, tmp_path, mergery):
    models = "models: {base: ./whole-base, a: ./whole-a, b: ./whole-b}\n"
    merge = "merge: {method: tsv_compress, base: base"
    assert mergery("pack", recipe(f"{models}{merge}}}\n"), tmp_path / "packed").code == 0
    assert mergery("merge", recipe(f"{models}{merge}, task: b}}\n"), tmp_path / "merged").code == 0
    served = serve(mergery, recipe, "b", tmp_path / "served")
    for name, tensor in tensors_of(tmp_path / "merged").items():
        assert float((served[name] - tensor).abs().max()) <= 1e-6 * max(float(tensor.abs().max()), 1e-3)


def test_fused_matrices_cannot_be_packed(gpts, recipe, tmp_path, mergery):
    text = "models: {base: ./base, a: ./a, b: ./b}\nmerge: {method: tsv_compress, base: base}\n"
    outcome = mergery("pack", recipe(text), tmp_path / "packed")
    assert outcome.code == 2
    assert "'transformer.h.0.attn.c_attn.weight' cannot be packed" in outcome.err
    assert "the base stores it in another form than the merge makes it" in outcome.err
    assert not list(tmp_path.glob("packed*"))

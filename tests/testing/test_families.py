"""Every trap that a family sets, on a tiny model of it: `make families` does the same for all families."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mergery.method import methods
from mergery.testing.families import FAMILIES, fine_tune, make
from mergery.testing.families.checking import GOOD, METHODS, ONE, check

HERE = [method for method in METHODS if method in methods()]
TRAPS = [family for family in FAMILIES if family.trap]
PAGE = Path(__file__).parents[2] / "docs" / "families.md"
ASKED = (
    "Llama 2", "Llama 3.1", "Llama 3.2", "Llama 3.2 Vision", "Llama 4", "Mistral", "Mixtral", "Mistral 3", "Pixtral", "Gemma 2",
    "Gemma 3", "Falcon 7B", "Falcon 2", "Falcon Mamba", "Falcon H1", "Qwen 1", "Qwen 2.5 VL", "Qwen 3 MoE", "DeepSeek V1",
    "DeepSeek V2", "DeepSeek V3", "DeepSeek Coder", "GPT-2", "GPT-Neo", "GPT-J", "GPT-NeoX", "Pythia", "Phi 4 multimodal",
    "Phi 3.5 MoE", "SOLAR", "Kanana", "EXAONE 3.5", "EXAONE 4", "HyperCLOVA X", "Mamba 2", "RWKV", "xLSTM", "OLMo 2",
    "Granite", "Cohere 2", "GPT-OSS", "LLaVA", "LLaVA-NeXT", "IDEFICS 2", "Florence 2", "BERT", "RoBERTa", "T5",
)  # fmt: skip


@pytest.mark.parametrize("family", TRAPS, ids=lambda family: family.name)
def test_a_family_with_a_trap(family, tmp_path, capsys):
    answers = check(family, tmp_path, HERE)
    answers.pop("tensors")
    assert answers.pop("spellings") in (GOOD, ONE)
    assert answers == dict.fromkeys((*HERE, "itself"), GOOD)


def test_the_page_has_a_row_for_every_family_and_hides_no_failure():
    text = PAGE.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| **")]
    assert [row.split("**")[1] for row in rows] == [family.name for family in FAMILIES]
    assert not [name for name in ASKED if name not in text]
    columns = [
        cell.strip() for cell in next(line for line in text.splitlines() if line.startswith("| family")).split("|")
    ]
    for row in rows:
        cells = dict(zip(columns, (cell.strip() for cell in row.split("|")), strict=True))
        for method in HERE:
            assert cells[method] == GOOD, f"{row}: write the page again with `make families`"


def test_a_broken_merge_would_be_seen(tmp_path, monkeypatch):
    """The check itself: a tensor that is not the mean, and a name that is missing, are answers, not silence."""
    from mergery.testing.families import checking

    family = FAMILIES[0]
    run = checking._run

    def spoil(recipe, root, out):
        said = run(recipe, root, out)
        tensors = load_file(root / out / "model.safetensors")
        name = "model.layers.0.mlp.up_proj.weight"
        if out == "linear":
            tensors[name] = tensors[name] + 1.0
        elif out == "ties":
            del tensors[name]
        else:
            tensors[name] = torch.full_like(tensors[name], float("nan"))
        save_file(tensors, root / out / "model.safetensors", metadata={"format": "pt"})
        return said

    monkeypatch.setattr(checking, "_run", spoil)
    answers = check(family, tmp_path, ["linear", "ties", "slerp"])
    assert answers["linear"] == "model.layers.0.mlp.up_proj.weight is not the mean of its models"
    assert answers["ties"] == "other names: ['model.layers.0.mlp.up_proj.weight']"
    assert answers["slerp"] == "logits that are not finite"
    assert answers["itself"] == "1 tensors differ, such as model.layers.0.mlp.up_proj.weight"


def test_fine_tunes_differ_by_seed_and_agree_with_themselves(tmp_path):
    base = make(FAMILIES[0], tmp_path / "base")
    one, same, other = (fine_tune(base, tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    first, second, third = (load_file(folder / "model.safetensors") for folder in (one, same, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], third[name]) for name in first)
    assert json.loads((one / "config.json").read_text())["model_type"] == "llama"

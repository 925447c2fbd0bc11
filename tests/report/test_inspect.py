"""`mergery inspect`: what a checkpoint is, and what merges with it, from headers."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file, save_file

import mergery as library
from mergery.checkpoints.memory import MemoryCheckpoint
from mergery.cli.common import console
from mergery.testing.families import FAMILIES, make
from tests.conftest import make_llama

BY_NAME = {family.name: family for family in FAMILIES}


def test_a_model_for_a_person(mergery, llamas):
    outcome = mergery("inspect", llamas / "a")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert "family         llama" in lines
    assert "layers         4 (model.layers)" in lines
    assert any(line.startswith("tokenizer") and "WordLevel" in line and "128 tokens" in line for line in lines)
    assert any("unk <unk>; a chat template" in line for line in lines)
    assert any(line.split()[:3] == ["language", "attention.q", "4"] for line in lines)


def test_facts_for_a_program(mergery, tmp_path):
    make(BY_NAME["Phi 3"], tmp_path / "phi")
    facts = json.loads(mergery("inspect", tmp_path / "phi", "--json").out)
    assert facts["family"] == "phi3"
    layer = 64 * 32 + 32 * 32 + 128 * 32 + 32 * 64 + 2 * 32  # q, k and v; o; gate and up; down; norms
    assert facts["parameters"] == 2 * 128 * 32 + 2 * layer + 32
    assert facts["tokenizer"] is None
    made = {" ".join(fused["parts"]): fused["parts"] for fused in facts["fused"]}
    assert made == {
        "q k v": {"q": [32, 32], "k": [16, 32], "v": [16, 32]},
        "gate up": {"gate": [64, 32], "up": [64, 32]},
    }
    assert facts["tied"] == {"head": False, "aliases": {}}


def test_parts_and_tied_tensors(tmp_path):
    make(BY_NAME["T5"], tmp_path / "t5")
    facts = library.inspect(tmp_path / "t5")
    assert facts["tied"]["aliases"]["lm_head.weight"] == "shared.weight"
    make(BY_NAME["LLaVA"], tmp_path / "llava")
    facts = library.inspect(tmp_path / "llava")
    assert set(facts["parts"]) == {"language", "vision", "projector"}
    assert facts["language_model"] == "llama"


def test_what_merges_with_it_and_why_not(mergery, llamas, tmp_path):
    make_llama(tmp_path / "wide", 0, hidden_size=64)
    config = json.loads((llamas / "a" / "config.json").read_text())
    outcome = mergery("inspect", llamas / "base", llamas / "a", tmp_path / "wide")
    assert outcome.code == 0
    assert f"{llamas / 'a'} merges with this model" in outcome.out.replace("\n", "")
    text = " ".join(outcome.out.split())
    assert "wide does not merge with this model" in text
    assert "hidden_size differs: base has 32, wide has 64" in text
    assert "try: merge models of one size" in text
    config["rope_parameters"]["rope_theta"] = 5e5
    other = MemoryCheckpoint({"model.norm.weight": torch.ones(2)}, "other", config)
    verdict = library.inspect(llamas / "base", [other])["merging"][0]
    assert not verdict["merges"]
    assert any("rope_theta differs: base has 10000.0, memory has 500000.0" in why for why in verdict["why_not"])


def test_on_a_narrow_terminal_the_columns_that_matter_are_whole(mergery, llamas, monkeypatch):
    assert "model.embed_tokens.weight" in mergery("inspect", llamas / "base").out
    monkeypatch.setattr("mergery.cli.inspect.console", lambda: console(40))
    shown = mergery("inspect", llamas / "base").out
    assert "attention.q  4        4.1 k" in shown
    assert "…" not in shown


def test_quantised_files_are_named(tmp_path):
    weights = {"model.layers.0.mlp.up_proj.weight": torch.ones(4, 4).to(torch.float8_e4m3fn)}
    facts = library.inspect(MemoryCheckpoint(weights, "x", {"model_type": "llama"}))
    assert facts["quantised"]["why"] == "tensor 'model.layers.0.mlp.up_proj.weight' is float8_e4m3fn"


def test_a_broken_tokenizer_is_not_in_the_way(llamas, tmp_path):
    make_llama(tmp_path / "a", 1)
    (tmp_path / "a" / "tokenizer.json").write_text("{")
    (tmp_path / "a" / "tokenizer_config.json").write_text('{"tokenizer_class": "X", "bos_token": {"content": "<s>"}}')
    facts = library.inspect(tmp_path / "a")["tokenizer"]
    assert (facts["class"], facts["vocabulary"], facts["special"]) == ("X", None, {"bos_token": "<s>"})


def test_no_model_there(mergery, tmp_path):
    outcome = mergery("inspect", tmp_path / "nothing")
    assert outcome.code == 2
    assert "nothing" in outcome.err


def test_a_head_that_only_the_config_ties_and_names_without_wrappers(tmp_path):
    make_llama(tmp_path / "tied", 0, tie_word_embeddings=True)
    tensors = load_file(tmp_path / "tied" / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file({f"_orig_mod.{name}": value for name, value in tensors.items()}, tmp_path / "tied" / "model.safetensors")
    facts = library.inspect(tmp_path / "tied")
    assert facts["tied"] == {"head": False, "aliases": {}}
    assert facts["remarks"] == [
        "taken without '_orig_mod.' in its names, which wrappers put there",
        "the head differs from the embeddings, although config.json ties them: it is taken for a head of its own",
    ]
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "tied" / "model.safetensors")
    assert library.inspect(tmp_path / "tied")["tied"] == {
        "head": True, "aliases": {"lm_head.weight": "model.embed_tokens.weight"},
    }  # fmt: skip

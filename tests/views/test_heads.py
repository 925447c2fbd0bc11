"""Heads and the embeddings that stand for them: the bytes say whether they are one tensor, whatever a config says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mergery import api
from mergery.checkpoints.equality import BLOCK, same_bytes
from mergery.checkpoints.memory import MemoryCheckpoint
from mergery.errors import MergeryError
from mergery.planning.plan import Plan
from tests.conftest import make_llama, tensors_of

WORDS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
HEAD_OF_ITS_OWN = f"'{HEAD}' differs from '{WORDS}', although config.json ties them"


def tied(folder: Path, seed: int, head: float | None = None) -> Path:
    """A Llama whose config ties its head; with a head in its file all the same, so far from the embeddings."""
    make_llama(folder, seed, tie_word_embeddings=True)
    if head is not None:
        tensors = load_file(folder / "model.safetensors")
        save_file({**tensors, HEAD: tensors[WORDS] + head}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def merge(models: dict[str, Path], out: Path, merge: dict | None = None, **rest) -> tuple[Any, Any, str, Plan]:
    result = api.merge({"models": models, "merge": merge or {"method": "linear"}, **rest}, out)
    return tensors_of(out), json.loads((out / "config.json").read_text()), "\n".join(result.plan.warnings), result.plan


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_trained_head_is_merged_whichever_model_is_named_first(order, tmp_path):
    """Under a config that ties it, as fine-tuning with `modules_to_save` leaves one; the other's embeddings are its head."""
    a, b = tied(tmp_path / "a", 1), tied(tmp_path / "b", 2, head=0.5)
    models = {"a": a, "b": b}
    out, config, said, _ = merge({each: models[each] for each in order}, tmp_path / "out")
    words = load_file(a / "model.safetensors")[WORDS]
    assert torch.equal(out[HEAD], (words + load_file(b / "model.safetensors")[HEAD]) / 2)
    assert config["tie_word_embeddings"] is False
    assert f"b: {HEAD_OF_ITS_OWN}" in said
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.lm_head.weight, out[HEAD])
    assert torch.equal(model.model.embed_tokens.weight, out[WORDS])


def test_a_copy_of_the_embeddings_is_left_out_and_the_output_stays_tied(tmp_path):
    a, b = tied(tmp_path / "a", 1), tied(tmp_path / "b", 2, head=0.0)
    out, config, said, plan = merge({"a": a, "b": b}, tmp_path / "out")
    assert HEAD not in out
    assert config["tie_word_embeddings"] is True
    assert "head" not in said
    assert plan.dropped == {HEAD: f"b stores it and '{WORDS}' as one tensor, and a under that name alone"}


@pytest.mark.parametrize("merge_by", [{"method": "linear"}, {"method": "dare_ties", "base": "a", "density": 0.5}])
def test_copies_of_the_embeddings_are_merged_as_they_are(merge_by, tmp_path):
    """Also by a method that draws random numbers under each tensor's name."""
    models = {name: tied(tmp_path / name, seed, head=0.0) for seed, name in enumerate("abc")}
    out, config, said, _ = merge(models, tmp_path / "out", merge_by)
    assert torch.equal(out[HEAD], out[WORDS])
    assert config["tie_word_embeddings"] is True
    assert "head" not in said


def test_what_a_recipe_says_of_heads_makes_them_their_own(tmp_path):
    models = {name: tied(tmp_path / name, seed, head=0.0) for seed, name in enumerate("ab")}
    weight = {"a": [{"where": {"role": "head"}, "value": 0}, {"value": 1}], "b": 1}
    out, config, said, _ = merge(models, tmp_path / "out", {"method": "linear", "weight": weight})
    assert torch.equal(out[HEAD], load_file(tmp_path / "b" / "model.safetensors")[HEAD])
    assert config["tie_word_embeddings"] is False
    assert "the output has a head of its own" in said


def test_in_a_stack_no_trained_head_is_lost(tmp_path):
    a, b = tied(tmp_path / "a", 1), tied(tmp_path / "b", 2, head=0.5)
    layers = [{"models": {"a": 0}}, {"models": {"b": 1}}]
    out, config, _, _ = merge({"a": a, "b": b}, tmp_path / "out", {"method": "passthrough", "stack": layers})
    assert torch.equal(out[HEAD], load_file(b / "model.safetensors")[HEAD])
    assert torch.equal(out[WORDS], load_file(a / "model.safetensors")[WORDS])
    assert config["tie_word_embeddings"] is False
    make_llama(tmp_path / "untied", 3)
    layers = [{"models": {"untied": 0}}, {"models": {"a": 1}}]
    models = {"untied": tmp_path / "untied", "a": a}
    out, config, _, _ = merge(models, tmp_path / "next", {"method": "passthrough", "stack": layers})
    assert torch.equal(out[HEAD], load_file(a / "model.safetensors")[WORDS])
    assert config["tie_word_embeddings"] is False


def with_head(folder: Path, seed: int, *names: str) -> Path:
    make_llama(folder, seed)
    tensors = load_file(folder / "model.safetensors")
    del tensors[HEAD]
    random = torch.Generator().manual_seed(seed)
    rows = {name: torch.randn(3, tensors[WORDS].shape[1], generator=random) for name in names}
    save_file(tensors | rows, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_one_models_trained_head_is_kept_over_a_base_that_has_none(tmp_path):
    """A classifier's head has no counterpart in its base: it is copied, and the plan says so."""
    models = {
        "base": with_head(tmp_path / "base", 0),
        "a": with_head(tmp_path / "a", 1, "score.weight"),
        "b": with_head(tmp_path / "b", 2),
    }
    by = {"method": "task_arithmetic", "base": "base", "weight": 0.5}
    out, _, said, _ = merge(models, tmp_path / "out", by)
    head = load_file(tmp_path / "a" / "model.safetensors")["score.weight"]
    assert torch.equal(out["score.weight"], head)
    assert "a alone has 'score.weight': copied, for base has no such head" in said
    out, _, said, _ = merge(models, tmp_path / "as_a", by, output={"config": "a"})
    assert torch.equal(out["score.weight"], head)
    assert "a alone has 'score.weight'" in said


def test_heads_that_several_models_have_and_their_base_lacks_are_refused(tmp_path):
    models = {
        "base": with_head(tmp_path / "base", 0),
        "a": with_head(tmp_path / "a", 1, "score.weight"),
        "b": with_head(tmp_path / "b", 2, "score.weight"),
    }
    with pytest.raises(MergeryError, match=r"'a' has 'score.weight', which 'base' lacks"):
        api.plan({"models": models, "merge": {"method": "task_arithmetic", "base": "base", "weight": 0.5}})


def test_bytes_are_compared_to_the_last_one():
    table = torch.zeros(BLOCK // 2 + 1, 2)
    other = table.clone()
    checkpoint = MemoryCheckpoint({"a": table, "b": other, "c": table[:-1].clone(), "d": table.half(), "e": table})
    assert same_bytes(checkpoint, "a", "b")
    assert same_bytes(checkpoint, "a", "e"), "one storage"
    assert not same_bytes(checkpoint, "a", "c")
    assert not same_bytes(checkpoint, "a", "d")
    other[-1, -1] = np.nextafter(np.float32(0), np.float32(1)).item()
    assert not same_bytes(checkpoint, "a", "b")


def test_a_t5_with_a_trained_head_goes_on_scaling(tmp_path):
    """T5 scales what its head gets by the same word that says that the head is tied, so that the word must stay."""
    from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        T5ForConditionalGeneration(config).save_pretrained(tmp_path / name)
    b = load_file(tmp_path / "b" / "model.safetensors")
    b["lm_head.weight"] = b["shared.weight"] + 1
    save_file(b, tmp_path / "b" / "model.safetensors", metadata={"format": "pt"})
    out, _, said, _ = merge({name: tmp_path / name for name in "ab"}, tmp_path / "out")
    assert torch.equal(out["lm_head.weight"], (tensors_of(tmp_path / "a")["shared.weight"] + b["lm_head.weight"]) / 2)
    assert "a program that trusts it loses the head" in said
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    assert model.config.scale_decoder_outputs
    config = json.loads((tmp_path / "b" / "config.json").read_text()) | {"tie_word_embeddings": False}
    (tmp_path / "b" / "config.json").write_text(json.dumps(config))
    with pytest.raises(MergeryError, match="tie_word_embeddings differs: a has true, b has false"):
        merge({name: tmp_path / name for name in "ab"}, tmp_path / "next")


def test_zeros_are_no_alias(tmp_path):
    """Vectors that start as zeros are equal to the byte, and each is its own."""
    names = ("model.embed_tokens.weight", "lm_head.bias", "score.bias")
    models = {}
    for name in "ab":
        values = {each: torch.zeros(4) for each in names if name == "a" or each != "score.bias"}
        models[name] = MemoryCheckpoint(values | {"model.norm.weight": torch.ones(4)}, name)
    with pytest.raises(MergeryError, match=r"'b' lacks 'score.bias'"):
        api.plan({"models": models, "merge": {"method": "linear"}})

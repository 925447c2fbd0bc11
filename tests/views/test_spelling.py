"""Two spellings of one model merge with each other, and the output keeps its donor's."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from mergery import api
from mergery.architecture.spelling import HEADS, aliases, canonical_name, canonical_names
from mergery.checkpoints.config import Config
from mergery.checkpoints.memory import MemoryCheckpoint
from mergery.errors import MergeryError
from mergery.testing.families import FAMILIES, build, fine_tune, make
from tests.conftest import make_llama, tensors_of

BY_NAME = {family.name: family for family in FAMILIES}
TWO_SPELLINGS = (
    "Llama 3.2 Vision",
    "GPT-NeoX",
    "BERT",
    "Phi 3.5 MoE",
    "Granite MoE",
    "LLaVA-NeXT",
    "RoBERTa",
    "Gemma 3",
)


def merged(models, merge, out, **rest):
    result = api.merge({"models": models, "merge": merge, **rest}, out)
    return tensors_of(out), result.plan


@pytest.mark.parametrize("name", TWO_SPELLINGS)
def test_the_names_in_memory_and_on_disk_are_one_model(name, tmp_path):
    """`save_pretrained` renames by the conversion tables of transformers; both spellings must meet again here."""
    family = BY_NAME[name]
    model = build(family)
    model.save_pretrained(tmp_path / "disk")
    stored = load_file(tmp_path / "disk" / "model.safetensors")
    config = json.loads((tmp_path / "disk" / "config.json").read_text())
    memory = MemoryCheckpoint(model.state_dict(), "memory", config)
    assert set(memory.tensors) != set(stored)
    out, plan = merged({"disk": tmp_path / "disk", "memory": memory}, {"method": "linear"}, tmp_path / "one")
    assert out.keys() == stored.keys()
    assert all(torch.equal(out[key], stored[key]) for key in stored)
    respelled = any("respelled with the names of disk" in warning for warning in plan.warnings)
    assert respelled or plan.dropped
    back, plan = merged({"memory": memory, "disk": tmp_path / "disk"}, {"method": "linear"}, tmp_path / "two")
    assert back.keys() == set(memory.tensors)
    assert all(torch.equal(back[key], tensor) for key, tensor in model.state_dict().items())


def test_experts_one_by_one_and_stacked_give_the_same_bytes(tmp_path):
    base = make(BY_NAME["Mixtral"], tmp_path / "base")
    for seed, name in enumerate("ab", start=1):
        fine_tune(base, tmp_path / name, seed)
    from transformers import AutoModelForCausalLM

    fused = AutoModelForCausalLM.from_pretrained(tmp_path / "b").state_dict()
    config = json.loads((base / "config.json").read_text())
    recipe = {"method": "ties", "base": "base", "scope": "tensor"}
    plain, _ = merged({name: tmp_path / name for name in ("base", "a", "b")}, recipe, tmp_path / "plain")
    models = {"base": tmp_path / "base", "a": tmp_path / "a", "b": MemoryCheckpoint(fused, "b", config)}
    mixed, plan = merged(models, recipe, tmp_path / "mixed")
    assert all(torch.equal(plain[name], mixed[name]) for name in plain)
    assert any("b is respelled" in warning for warning in plan.warnings)


def test_a_base_model_without_its_prefix(tmp_path, mergery):
    make_llama(tmp_path / "base", 0)
    weights = load_file(tmp_path / "base" / "model.safetensors")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    bare = {name.removeprefix("model."): tensor for name, tensor in weights.items() if name != "lm_head.weight"}
    models = {"base": tmp_path / "base", "bare": MemoryCheckpoint(bare, "bare", config)}
    out, _ = merged(models, {"method": "linear"}, tmp_path / "x", drop=["lm_head.weight"])
    assert all(torch.equal(out[name], weights[name]) for name in out)
    with pytest.raises(MergeryError, match=r"'bare' lacks 'lm_head.weight'"):
        merged(models, {"method": "linear"}, tmp_path / "y")


def test_a_tied_model_stands_for_its_head_beside_an_untied_one(tmp_path):
    make_llama(tmp_path / "tied", 0, tie_word_embeddings=True)
    make_llama(tmp_path / "untied", 1)
    tied, untied = tensors_of(tmp_path / "tied"), tensors_of(tmp_path / "untied")
    models = {"untied": tmp_path / "untied", "tied": tmp_path / "tied"}
    out, plan = merged(models, {"method": "linear"}, tmp_path / "out")
    mean = ((untied["lm_head.weight"].double() + tied["model.embed_tokens.weight"].double()) / 2).float()
    assert torch.equal(out["lm_head.weight"], mean)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert any("respelled with the names of untied: 1 tensors (such as 'lm_head.weight')" in w for w in plan.warnings)
    back, plan = merged(dict(reversed(models.items())), {"method": "linear"}, tmp_path / "back")
    assert back.keys() == out.keys()
    assert all(torch.equal(back[each], out[each]) for each in out)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["tie_word_embeddings"] is False
    assert any(
        "tied ties 'lm_head.weight' to 'model.embed_tokens.weight', which stands for it" in w for w in plan.warnings
    )


def test_exaone_is_a_llama_under_other_names(tmp_path):
    make_llama(tmp_path / "base", 0)
    weights = tensors_of(tmp_path / "base")
    words = {
        "model.embed_tokens": "transformer.wte", "model.norm": "transformer.ln_f", "model.layers": "transformer.h",
        "input_layernorm": "ln_1", "post_attention_layernorm": "ln_2", "self_attn.o_proj": "attn.attention.out_proj",
        "self_attn": "attn.attention", "gate_proj": "c_fc_0", "up_proj": "c_fc_1", "down_proj": "c_proj",
    }  # fmt: skip
    exaone = {}
    for name, tensor in weights.items():
        for old, new in words.items():
            name = name.replace(old, new)
        exaone[name] = tensor
    assert "transformer.h.0.mlp.c_fc_0.weight" in exaone
    config = {**json.loads((tmp_path / "base" / "config.json").read_text()), "model_type": "exaone"}
    models = {"exaone": MemoryCheckpoint(exaone, "exaone", config), "llama": tmp_path / "base"}
    out, _ = merged(models, {"method": "linear"}, tmp_path / "out")
    assert out.keys() == exaone.keys()
    assert all(torch.equal(out[name], exaone[name]) for name in out)


def test_a_language_model_merges_with_the_one_in_a_vision_model(tmp_path):
    make(BY_NAME["LLaVA"], tmp_path / "vlm")
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(5)
    config = BY_NAME["LLaVA"].config["text_config"]
    AutoModelForCausalLM.from_config(LlamaConfig(**{**config, "model_type": "llama"})).save_pretrained(tmp_path / "llm")
    vlm, llm = tensors_of(tmp_path / "vlm"), tensors_of(tmp_path / "llm")
    out, plan = merged({"vlm": tmp_path / "vlm", "llm": tmp_path / "llm"}, {"method": "linear"}, tmp_path / "out")
    assert out.keys() == vlm.keys()
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    mean = (vlm[name].double() + llm[name.removeprefix("language_model.")].double()) / 2
    assert torch.equal(out[name], mean.float())
    other = [name for name in vlm if not name.startswith("language_model.")]
    assert len(other) > 30
    assert all(torch.equal(out[name], vlm[name]) for name in other)
    assert any(
        f"llm is a language model alone: {len(other)} other tensors of vlm are copied" in w for w in plan.warnings
    )
    out, plan = merged({"llm": tmp_path / "llm", "vlm": tmp_path / "vlm"}, {"method": "linear"}, tmp_path / "plain")
    assert out.keys() == llm.keys()
    assert set(plan.dropped) == set(other)
    assert "the vision part of vlm; llm is a language model alone" in plan.dropped.values()


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("model.layers.0.block_sparse_moe.experts.3.w3.weight", "layers.0.mlp.experts.3.up_proj.weight"),
        ("language_model.model.layers.0.mlp.gate.weight", "layers.0.mlp.router.weight"),
        ("model.language_model.norm.weight", "norm.weight"),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", "vision.encoder.layers.0.mlp.fc1.weight"),
        ("bert.embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight"),
        ("embed_out.weight", "lm_head.weight"),
        ("model.mystery", "mystery"),
    ],
)
def test_canonical_names(name, canonical):
    assert canonical_name(name) == canonical


def test_aliases_of_tied_tensors():
    t5 = ["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"]
    embeddings = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    assert aliases(Config({"model_type": "t5"}), t5) == dict.fromkeys((*embeddings, *HEADS), "shared.weight")
    assert "lm_head.weight" not in aliases(Config({"model_type": "t5", "tie_word_embeddings": False}), t5)


def test_names_that_would_collide_keep_their_own(tmp_path):
    twice = {"model.norm.weight": torch.ones(4), "norm.weight": torch.zeros(4)}
    once = {"transformer.norm.weight": torch.ones(4)}
    models = {"twice": MemoryCheckpoint(twice, "twice"), "once": MemoryCheckpoint(once, "once")}
    with pytest.raises(MergeryError, match=r"'once' lacks 'model.norm.weight', 'norm.weight'"):
        merged(models, {"method": "linear"}, tmp_path / "out")


@pytest.mark.parametrize("name", [family.name for family in FAMILIES][::6])
def test_names_that_differ_in_numbers_are_read_together_and_come_out_as_one_by_one(name, tmp_path):
    family = BY_NAME[name]
    folder = make(family, tmp_path / "model")
    config = Config(json.loads((folder / "config.json").read_text()))
    names = list(tensors_of(folder))
    kind = config.family_of("language")
    assert canonical_names(names, config) == {each: canonical_name(each, kind) for each in names}

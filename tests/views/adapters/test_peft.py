"""For every kind of adapter: one at weight 1 is peft's own forward, and peft's merged weights to the bit where asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mergery import api
from tests.views.adapters.peft_models import load, logits, merged, model_of, save_adapter, with_adapters

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "lora": ("llama", {}, {"r": 4, "lora_alpha": 8, "target_modules": ALL}),
    "rslora": ("llama", {}, {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": ["q_proj"]}),
    "dora": ("llama", {}, {"r": 4, "use_dora": True, "target_modules": ["q_proj", "down_proj"]}),
    "patterns": (
        "llama",
        {},
        {
            "r": 4,
            "target_modules": ALL,
            "rank_pattern": {"q_proj": 2, "layers.1.mlp.*": 3},
            "alpha_pattern": {"k_proj": 1, r"layers\.0\..*v_proj": 5},
        },
    ),
    "modules_to_save": ("llama", {}, {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]}),
    "tied head": (
        "llama", {"tie_word_embeddings": True}, {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    ),
    "all biases": ("llama", {"attention_bias": True}, {"r": 4, "target_modules": ["q_proj"], "bias": "all"}),
    "lora bias": ("llama", {"attention_bias": True}, {"r": 4, "target_modules": ["q_proj", "o_proj"], "lora_bias": True}),
    "embeddings": ("llama", {}, {"r": 4, "target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
    "dora embeddings": ("llama", {}, {"r": 4, "use_dora": True, "target_modules": ["embed_tokens"]}),
    "tokens": ("llama", {}, {"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": [3, 7]}),
    "conv1d": ("gpt2", {}, {"r": 4, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "dora conv1d": ("gpt2", {}, {"r": 4, "use_dora": True, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "experts": (
        "qwen3_moe",
        {},
        {
            "r": 4,
            "target_modules": ["q_proj", "gate"],
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        },
    ),
    "down of experts": (
        "qwen3_moe", {}, {"r": 4, "target_modules": ["q_proj"], "target_parameters": ["experts.down_proj"]},
    ),
}  # fmt: skip


def baked(base: Path, out: Path, *adapters: Path, **said: Any) -> Path:
    source = {"path": str(base), "adapters": [str(each) for each in adapters], **said}
    api.merge({"models": {"a": source}, "merge": {"method": "passthrough"}}, out)
    return out


@pytest.mark.parametrize("case", CASES)
def test_one_adapter_is_what_peft_makes_of_it(case: str, tmp_path: Path) -> None:
    kind, model, config = CASES[case]
    base = tmp_path / "base"
    model_of(kind, **model).save_pretrained(base)
    adapter = save_adapter(base, tmp_path / "adapter", **config)
    own = load(baked(base, tmp_path / "out", adapter))
    torch.testing.assert_close(logits(own), logits(with_adapters(base, adapter)), rtol=1e-4, atol=1e-5)
    assert (logits(own) - logits(load(base))).abs().max() > 1e-2


@pytest.mark.parametrize("half", ["base", "both"])
@pytest.mark.parametrize("case", CASES)
def test_peft_is_replayed_to_the_bit(case: str, half: str, tmp_path: Path) -> None:
    kind, model, config = CASES[case]
    base = tmp_path / "base"
    model_of(kind, **model).bfloat16().save_pretrained(base)
    adapter = save_adapter(base, tmp_path / "adapter", torch.bfloat16 if half == "both" else torch.float32, **config)
    own = load(baked(base, tmp_path / "out", adapter, rounding="peft")).state_dict()
    theirs = merged(base, adapter).state_dict()
    assert own.keys() == theirs.keys()
    assert [name for name in own if not torch.equal(own[name].float(), theirs[name].float())] == []

"""Small models of transformers, and adapters on them made by peft: none of their weights is zero."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from mergery import api

SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 64, "max_position_embeddings": 64,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 24, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2}


def model_of(kind: str, **more: Any) -> Any:
    """An untrained model: llama, gpt2 or qwen3_moe."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    own = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 64} if kind == "gpt2" else SMALL
    own = own | EXPERTS if kind == "qwen3_moe" else own
    config = AutoConfig.for_model(kind, **own, **more)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
    return model.eval()


def save_adapter(base: Path, out: Path, dtype: torch.dtype = torch.float32, seed: int = 1, **config: Any) -> Path:
    """An adapter of peft on a saved model, all of it random."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **config))
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if "lora_" in name or "modules_to_save" in name or name.endswith("bias") or "token_adapter" in name:
                    size = parameter.abs() if "magnitude" in name else torch.ones(())
                    parameter.copy_(torch.randn(parameter.shape) * 0.3 + ("magnitude" in name) * size)
        made.to(dtype).save_pretrained(str(out))
    return out


def load(base: Path, dtype: torch.dtype | None = None) -> Any:
    """The model of a folder."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=dtype or "auto").eval()


def with_adapters(base: Path, *adapters: Path, dtype: torch.dtype | None = None) -> Any:
    """A model of peft with adapters on it, all active."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = PeftModel.from_pretrained(load(base, dtype), adapters[0], adapter_name="0")
        for number, each in enumerate(adapters[1:], start=1):
            model.load_adapter(each, adapter_name=str(number))
        model.base_model.set_adapter([str(number) for number in range(len(adapters))])
    return model.eval()


def merged(base: Path, *adapters: Path, dtype: torch.dtype | None = None, safe: bool = False) -> Any:
    """What peft's merge makes of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = with_adapters(base, *adapters, dtype=dtype)
        return model.merge_and_unload(safe_merge=safe, adapter_names=[str(n) for n in range(len(adapters))])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(24).reshape(2, 12)).logits.float()


def passed(model: Any, **said: Any) -> dict[str, torch.Tensor]:
    """What a merge that passes one model through gives."""
    return api.merge({"models": {"a": model}, "merge": {"method": "passthrough"}, **said})  # type: ignore[return-value]
